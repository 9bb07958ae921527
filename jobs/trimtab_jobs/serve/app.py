"""The HTTP side: routes, statuses, and one JSON object per error.

https://github.com/kserve/open-inference-protocol, without its binary extension, and Prometheus's /metrics.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trimtab_jobs.serve import metrics
from trimtab_jobs.serve.host import Host
from trimtab_jobs.serve.protocol import Refused, datatype
from trimtab_jobs.signature import Input

BODY_LIMIT = 64 << 20

log = logging.getLogger(__name__)


def make_app(host: Host) -> Starlette:
    """The server of one host; it follows the published folder while the app runs."""
    handlers = _Handlers(host)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(host.watch())
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        host.close()

    routes = [
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2", handlers.server),
        Route("/v2/models/{name}", handlers.model),
        Route("/v2/models/{name}/ready", handlers.model_ready),
        Route("/v2/models/{name}/infer", handlers.infer, methods=["POST"]),
        Route("/metrics", handlers.metrics),
    ]
    errors: dict[Any, Any] = {Refused: _refused, HTTPException: _http_error}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=errors)


class _Handlers:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        self._host.ready()
        return JSONResponse({"ready": True})

    async def server(self, _: Request) -> Response:
        return JSONResponse({"name": "trimtab", "version": version("trimtab"), "extensions": []})

    async def model(self, request: Request) -> Response:
        served = self._known(request).ready()
        return JSONResponse(
            {
                "name": self._host.model,
                "versions": [served.revision.digest],
                "platform": f"{served.format.lower()}_{served.revision.engine.lower()}",
                "inputs": [_described(spec) for spec in served.inputs],
                "outputs": [_described(spec) for spec in served.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        self._known(request).ready()
        return JSONResponse({"name": self._host.model, "ready": True})

    async def infer(self, request: Request) -> Response:
        started = time.perf_counter()
        response = await self._answer(request)
        self._host.metrics.answered(response.status_code, time.perf_counter() - started)
        return response

    async def metrics(self, _: Request) -> Response:
        return Response(self._host.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _answer(self, request: Request) -> Response:
        try:
            answer = await self._known(request).infer(await _body(request))
            return Response(answer, media_type="application/json")
        except Refused as refused:
            return _error(str(refused), refused.code)
        except Exception:  # a bug, or the machine's fault: counted like every other answer
            log.exception("inference failed")
            return _error("inference failed: see the server's log", 500)

    def _known(self, request: Request) -> Host:
        name = request.path_params["name"]
        if name != self._host.model:
            raise Refused(f"there is no model {name!r}: this server has {self._host.model!r}", 404)
        return self._host


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    try:
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > BODY_LIMIT:
                raise Refused(f"the body is larger than {BODY_LIMIT} bytes: send fewer rows at once", 413)
    except ClientDisconnect:
        raise Refused("the client went away") from None
    return b"".join(parts)


def _described(spec: Input) -> dict[str, Any]:
    """Sizes that vary are -1 in the protocol."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": datatype(spec.dtype), "shape": shape}


def _refused(_: Request, refused: Refused) -> Response:
    return _error(str(refused), refused.code)


def _http_error(_: Request, error: HTTPException) -> Response:
    return _error(error.detail, error.status_code)


def _error(message: str, code: int) -> Response:
    return JSONResponse({"error": message}, status_code=code)
