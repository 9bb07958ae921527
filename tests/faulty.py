"""An API server that does not always answer as it should: a proxy before the real one, with faults that a test chooses.

It speaks plain HTTP, so that it can tell one kind of call from another, to operators of this process and to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from trimtab.cluster.client import Call, Client, Fence, Observer

HOP_BY_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "accept-encoding"}
SILENCE = 3600.0


@dataclass(frozen=True)
class Fault:
    """What a caller gets in place of the answer: this status, or no answer at all where it is 0."""

    status: int
    done: bool = False
    """The API server has carried the call out all the same."""
    silent: bool = False
    """Without an answer, the connection stays open."""
    retry_after: int | None = None
    reason: str = ""

    def response(self) -> web.Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        about = {"kind": "Status", "status": "Failure", "reason": self.reason, "message": "a fault of the test's"}
        return web.Response(
            status=self.status, text=json.dumps(about), headers=headers, content_type="application/json"
        )


Judge = Callable[[Call], Fault | None]
"""Asked of every call: the fault it meets, or None."""


def kind_of(call: Call) -> str:
    """`POST jobs`; what kopf asks of the API itself, before it watches, is `GET discovery`."""
    return f"{call.verb} {call.resource or 'discovery'}"


def nothing(_: Call) -> None:
    """No fault."""


@dataclass
class Faulty:
    """The proxy: `judge` may be changed while it runs; `seen` counts what was asked, by verb and resource."""

    target: str
    tls: ssl.SSLContext
    judge: Judge = nothing
    seen: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    """Calls that met a fault."""
    port: int = 0
    _open: set[asyncio.Transport] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path) -> Path:
        """For another process."""
        cluster = {"name": "faulty", "cluster": {"server": self.url}}
        context = {"name": "faulty", "context": {"cluster": "faulty", "user": "nobody"}}
        users = [{"name": "nobody", "user": {}}]
        given = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "users": users}
        path.write_text(json.dumps(given | {"current-context": "faulty"}))
        return path

    def cut(self) -> None:
        """Break off every answer that is under way, watches above all."""
        for transport in self._open:
            transport.abort()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = _call(request)
        about = kind_of(call)
        self.seen[about] += 1
        fault = self.judge(call)
        if fault is None:
            return await self._pass_on(request)
        self.met[about] += 1
        if fault.done and call.writes:
            await self._carry_out(request)
        if fault.status:
            return fault.response()
        if fault.silent:
            await asyncio.sleep(SILENCE)
        assert request.transport
        request.transport.abort()
        return web.Response()

    @contextlib.asynccontextmanager
    async def _asked(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        async with self._session.request(
            request.method, self.target + request.raw_path, headers=headers, data=await request.read() or None
        ) as answer:
            yield answer

    async def _carry_out(self, request: web.Request) -> None:
        async with self._asked(request) as answer:
            await answer.read()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport
        self._open.add(transport)
        try:
            async with self._asked(request) as answer:
                headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
                response = web.StreamResponse(status=answer.status, headers=headers)
                with contextlib.suppress(ConnectionError):  # the caller has gone
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
                return response
        finally:
            self._open.discard(transport)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            try:
                yield
            finally:
                await runner.cleanup()


def _call(request: web.Request) -> Call:
    watches = request.query.get("watch") == "true"
    return Call("WATCH" if watches else request.method, request.path)


@contextlib.asynccontextmanager
async def faulty(judge: Judge = nothing) -> AsyncIterator[Faulty]:
    """A proxy before the API server of $KUBECONFIG, with that file's rights."""
    async with await Client.connect() as client:
        configuration: Any = client._api.configuration
        tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        proxy = Faulty(configuration.host, tls, judge)
        async with proxy.serving():
            yield proxy


_proxy: ContextVar[Faulty | None] = ContextVar("_proxy", default=None)


@contextlib.contextmanager
def through(proxy: Faulty) -> Any:
    """Tasks that are created here connect through the proxy, if `divert` was called."""
    token = _proxy.set(proxy)
    try:
        yield
    finally:
        _proxy.reset(token)


def divert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Client.connect` respect `through`; kopf connects as the client does."""
    connect = Client.connect

    async def diverted(observe: Observer = lambda *_: None, fence: Fence | None = None) -> Client:
        client = await (connect(observe, fence) if fence else connect(observe))
        if proxy := _proxy.get():
            client._api.configuration.host = proxy.url
        return client

    monkeypatch.setattr(Client, "connect", diverted)
