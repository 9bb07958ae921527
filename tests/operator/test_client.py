"""The HTTP client against a real server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from trimtab.cluster import client as client_module
from trimtab.cluster.client import Call, Client
from trimtab.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Expired,
    Forbidden,
    NotFound,
    OverQuota,
    Refused,
    Unavailable,
)

Script = list[tuple[int, str, dict[str, str]]]
OK = (200, '{"items": []}', {})


def status(code: int, reason: str = "", message: str = "no") -> tuple[int, str, dict[str, str]]:
    return code, f'{{"reason": "{reason}", "message": "{message}"}}', {}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_DELAY", 0.001)


def against(
    script: Script, scenario: Callable[[Client], Awaitable[object]]
) -> tuple[object, list[tuple[str, str, int]]]:
    """The scenario's result and the calls it took, with a server that gives the script's answers in turn."""
    calls: list[tuple[str, str, int]] = []
    answers = iter(script)

    async def answer(_: web.Request) -> web.Response:
        code, body, headers = next(answers)
        return web.Response(status=code, text=body, headers=headers, content_type="application/json")

    async def main() -> object:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        try:
            async with Client(configuration, lambda *call: calls.append(call)) as client:
                return await scenario(client)
        finally:
            await runner.cleanup()

    return asyncio.run(main()), calls


def get_jobs(client: Client) -> Awaitable[object]:
    return client.request("GET", "/apis/batch/v1/namespaces/a/jobs")


@pytest.mark.parametrize(
    ("script", "codes"),
    [
        ([OK], [200]),
        ([status(503), status(500), OK], [503, 500, 200]),
        ([(429, "slow down", {"Retry-After": "0"}), OK], [429, 200]),
    ],
    ids=["at once", "server errors", "too many requests"],
)
def test_what_is_tried_again(script: Script, codes: list[int]) -> None:
    answer, calls = against(script, get_jobs)
    assert answer == {"items": []}
    assert calls == [("GET", "jobs", code) for code in codes]


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ([status(503)] * 4, Unavailable, "503 no"),
        ([(500, "<html>oops", {})] * 4, Unavailable, "500 <html>oops"),
        ([status(404, "NotFound")], NotFound, "404 no"),
        ([status(409, "AlreadyExists")], AlreadyExists, "409 no"),
        ([status(409, "Conflict")], Conflict, "409 no"),
        ([status(410, "Expired")], Expired, "410 no"),
        ([status(403, "Forbidden")], Forbidden, "403 no"),
        (
            [status(403, "Forbidden", "jobs.batch a is forbidden: exceeded quota: q")],
            OverQuota,
            "403 jobs.batch a is forbidden: exceeded quota: q",
        ),
        ([status(401, "Unauthorized")], Forbidden, "401 no"),
        ([status(422, "Invalid", "spec.x: Required value")], Refused, "422 spec.x: Required value"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_an_error_becomes(script: Script, error: type[ClusterError], text: str) -> None:
    with pytest.raises(error) as raised:
        against(script, get_jobs)
    assert type(raised.value) is error
    assert str(raised.value) == f"GET /apis/batch/v1/namespaces/a/jobs: {text}"


def test_no_answer_at_all_is_unavailable() -> None:
    async def main() -> None:
        async with Client(Configuration(host="http://127.0.0.1:1")) as client:
            await client.request("GET", "/apis/batch/v1/jobs")

    with pytest.raises(Unavailable, match=r"GET /apis/batch/v1/jobs: no answer: ClientConnectorError"):
        asyncio.run(main())


def test_a_collection_comes_in_pages_and_null_is_no_item() -> None:
    script: Script = [
        (200, '{"items": [1, 2], "metadata": {"continue": "x"}}', {}),
        (200, '{"items": null, "metadata": {}}', {}),
    ]

    async def items(client: Client) -> list[object]:
        return [item async for page in client.pages("/api/v1/pods") for item in page["items"]]

    assert against(script, items)[0] == [1, 2]


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces/a/pods", "pods"),
        ("/api/v1/namespaces/a", "namespaces"),
        ("/apis/batch/v1/jobs", "jobs"),
        ("/apis/trimtab.dev/v1alpha1/namespaces/a/optimizationjobs/m/status", "optimizationjobs/status"),
    ],
)
def test_a_path_is_about_a_resource(path: str, resource: str) -> None:
    assert Call("GET", path).resource == resource


def test_no_configuration_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    with pytest.raises(ClusterError, match="no way to a cluster, /nowhere/kubeconfig: "):
        asyncio.run(Client.connect())
