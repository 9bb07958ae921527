"""One HTTP client for the Kubernetes API: dicts in, dicts out, errors as types.

It stands on the official client's asyncio half for what is intricate there (kubeconfig, service-account tokens that
rotate, TLS) and leaves its generated models aside: parsing JSON into them costs more than everything else here.

Every call may be repeated, because each is either a read, or a create under a fixed name, or a write that names the
version it starts from. So 429, 5xx and broken connections are retried here a few times with jittered back-off, and
only then become `Unavailable`, which puts the key back into the queue.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from pydantic_core import from_json

from trimtab import __version__
from trimtab.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Expired,
    Forbidden,
    NotFound,
    OverQuota,
    Permanent,
    Refused,
    Unavailable,
)

JSON = {"Accept": "application/json", "Content-Type": "application/json"}
MERGE_PATCH = JSON | {"Content-Type": "application/merge-patch+json"}
APPLY_PATCH = JSON | {"Content-Type": "application/apply-patch+yaml"}
ANYTHING = {"Accept": "application/json, */*"}
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

CALLS = 32
"""At most this many calls are under way at once: the client's only speed limit, and enough. Watches don't count."""

ATTEMPTS = 4
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0
PAGE = 200
"""Objects at a time: parsed as they are stored, 500 Jobs took 25 MB, which a process keeps once it has had them."""
OVER_QUOTA = "exceeded quota"
"""What the API server says for want of quota; its code is that of every refusal."""
_BROKEN = (aiohttp.ClientError, TimeoutError, OSError)
REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 10.0

Object = dict[str, Any]
Query = Sequence[tuple[str, str]]
Observer = Callable[[str, str, int], None]
"""Told of every answer: verb, resource, and status code, 0 for none."""

Fence = Callable[[], float]
"""Asked right before every write: the seconds it may take. It does not return where there must be none."""


@dataclass(frozen=True)
class Call:
    """One call to the API server. `path` is absolute, such as `/apis/batch/v1/jobs`."""

    verb: str
    path: str
    query: Query = ()
    body: object = None
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"

    @property
    def writes(self) -> bool:
        return self.verb not in ("GET", "WATCH")

    @property
    def resource(self) -> str:
        """What it is about, for metrics: `/apis/batch/v1/namespaces/a/jobs/b/status` is `jobs/status`."""
        parts = self.path.strip("/").split("/")
        parts = parts[3:] if parts[0] == "apis" else parts[2:]
        if parts[:1] == ["namespaces"] and len(parts) > 2:
            parts = parts[2:]
        return "/".join(parts[:1] + parts[2:])


class Client:
    """A connection to one cluster. Close it, or use it as a context manager."""

    def __init__(
        self,
        configuration: Configuration,
        observe: Observer = lambda verb, resource, code: None,
        fence: Fence = lambda: REQUEST_SECONDS,
    ) -> None:
        configuration.connection_pool_maxsize = 0  # no limit of connections, or watches would use it up
        # A proxy is the kubeconfig's to name. Looking for one in the environment costs a thread's turn per call.
        configuration.client_session_kwargs = {"trust_env": False}
        self._free = asyncio.Semaphore(CALLS)
        self._api = ApiClient(configuration)
        self._api.user_agent = f"trimtab/{__version__}"
        self._observe = observe
        self._fence = fence

    @classmethod
    async def connect(
        cls, observe: Observer = lambda verb, resource, code: None, fence: Fence = lambda: REQUEST_SECONDS
    ) -> Client:
        """The cluster of $KUBECONFIG, else the one this pod runs in, else that of ~/.kube/config.

        Nothing is called yet. Raises Permanent where there is no usable configuration.
        """
        configuration = Configuration()
        named = os.environ.get("KUBECONFIG")
        try:
            if not named and "KUBERNETES_SERVICE_HOST" in os.environ:
                load_incluster_config(client_configuration=configuration)
            else:
                await load_kube_config(config_file=named, client_configuration=configuration)
        except ConfigException as error:
            raise Permanent(f"no way to a cluster, {named or 'KUBECONFIG is not set'}: {error}") from None
        return cls(configuration, observe, fence)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._api.close()

    async def credentials(self) -> dict[str, Any]:
        """How this client connects, in the words of `kopf.ConnectionInfo`: one configuration serves both."""
        configuration = self._api.configuration
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        _, _, token = headers.get("authorization", "").rpartition(" ")
        return {
            "server": configuration.host,
            "ca_path": configuration.ssl_ca_cert,
            "insecure": not configuration.verify_ssl,
            "token": token or None,
            "certificate_path": configuration.cert_file,
            "private_key_path": configuration.key_file,
        }

    async def request(
        self, verb: str, path: str, query: Query = (), body: object = None, headers: Mapping[str, str] = JSON
    ) -> Object:
        """The answer's JSON. Raises ClusterError."""
        call = Call(verb, path, query, body, headers)
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._once(call)
            except Unavailable as error:
                await asyncio.sleep(max(error.retry_after, _jittered(attempt)))
        return await self._once(call)

    async def text(self, path: str, query: Query, seconds: float, most: int) -> str:
        """The beginning of an answer that is no JSON, at most so many bytes. Asked for once; raises ClusterError."""
        call = Call("GET", path, query, headers=ANYTHING)
        content = await self._content(
            call, lambda response: _beginning(response.content, most), aiohttp.ClientTimeout(total=seconds)
        )
        return content.decode(errors="replace")

    async def pages(
        self, path: str, query: Query = (), headers: Mapping[str, str] = JSON, size: int = PAGE
    ) -> AsyncIterator[Object]:
        """A collection, so many objects at a time."""
        token = ""
        while True:
            page = await self.request("GET", path, [*query, ("limit", str(size)), ("continue", token)], None, headers)
            # An empty metadata-only list has null in place of its items.
            page["items"] = page["items"] or []
            yield page
            token = page["metadata"].get("continue", "")
            if not token:
                return

    @asynccontextmanager
    async def stream(self, path: str, query: Query, silence: float) -> AsyncIterator[AsyncIterator[Object]]:
        """The JSON lines of a watch. After `silence` seconds without one, or when the connection breaks, it ends.

        Raises ClusterError where the server refuses to begin; never retries.
        """
        call = Call("WATCH", path, query)
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=silence)
        response = await self._send(call, timeout)
        try:
            self._observe(call.verb, call.resource, response.status)
            if response.status >= 400:
                raise failure(call, response.status, await response.read(), response.headers)
            yield _lines(response)
        finally:
            response.close()

    async def _once(self, call: Call) -> Object:
        answer: Object = from_json(await self._content(call, aiohttp.ClientResponse.read))
        return answer

    async def _content(
        self,
        call: Call,
        read: Callable[[aiohttp.ClientResponse], Awaitable[bytes]],
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> bytes:
        """What `read` takes of the answer. Raises ClusterError where the answer is one, or breaks off."""
        async with self._free:
            response = await self._send(call, timeout)
            try:
                content = await read(response)
            except _BROKEN as error:
                self._observe(call.verb, call.resource, 0)
                raise Unavailable(f"{call}: the answer broke off: {error!r}") from None
            finally:
                response.release()
        self._observe(call.verb, call.resource, response.status)
        if response.status >= 400:
            raise failure(call, response.status, content, response.headers)
        return content

    async def _send(self, call: Call, timeout: aiohttp.ClientTimeout | None = None) -> aiohttp.ClientResponse:
        """The answer up to its headers, with the token of the moment. Raises Unavailable if there is none."""
        headers = {**self._api.default_headers, **call.headers}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], call.path, call.verb, call.body)
        url = f"{self._api.configuration.host}{call.path}" + (f"?{urlencode(call.query)}" if call.query else "")
        method = "GET" if call.verb == "WATCH" else call.verb
        if timeout is None:
            seconds = min(REQUEST_SECONDS, self._fence()) if call.writes else REQUEST_SECONDS
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            answer = await self._api.call_api(method, url, headers, call.body, _request_timeout=timeout)
        except _BROKEN as error:
            self._observe(call.verb, call.resource, 0)
            raise Unavailable(f"{call}: no answer: {error!r}") from None
        response: aiohttp.ClientResponse = answer.response
        return response


def failure(call: Call, code: int, content: bytes, headers: Mapping[str, str]) -> ClusterError:
    """The exception for an answer of 400 or above; its text ends with the server's own words."""
    try:
        status = from_json(content)
    except ValueError:
        status = {}
    text = f"{call}: {code} {status.get('message') or content[:200].decode(errors='replace')}"
    if code == 429 or code >= 500:
        return Unavailable(text, _retry_after(headers))
    if code == 409:
        return AlreadyExists(text) if status.get("reason") == "AlreadyExists" else Conflict(text)
    if code == 403 and OVER_QUOTA in text:
        return OverQuota(text)
    kinds = {401: Forbidden, 403: Forbidden, 404: NotFound, 410: Expired}
    return kinds.get(code, Refused)(text)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds; the API server never sends the header's other form, a date."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _jittered(attempt: int) -> float:
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0**attempt) * random.random()  # noqa: S311


async def _beginning(body: aiohttp.StreamReader, most: int) -> bytes:
    """At most so many bytes."""
    try:
        return await body.readexactly(most)
    except asyncio.IncompleteReadError as end:
        return end.partial


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[Object]:
    """Every line but one cut off by the end of the connection, parsed."""
    try:
        async for line in response.content:
            if line.endswith(b"\n"):
                yield from_json(line)
    except _BROKEN:
        return
