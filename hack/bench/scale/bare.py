"""The floor: `python -m bench.scale.bare SCRIPTS TRIALS` lists the OptimizationJobs and does an operator's writes.

It decides nothing, reads nothing and waits for no pod; an object's writes go out one after the other, over sixteen
connections. Plain aiohttp: our own client is part of what is measured.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path

import aiohttp

from bench.scale import replay
from bench.scale.load import Object, number_of, shape
from trimtab.cluster.client import Client
from trimtab.cluster.objects import EVENTS, JOBS, OPTIMIZATION_JOBS

AT_ONCE = 16


async def run(scripts: dict[str, replay.Script], trials: int) -> None:
    host, context = await _server()
    connector = aiohttp.TCPConnector(limit=AT_ONCE, ssl=context)
    async with aiohttp.ClientSession(host, connector=connector) as session:
        todo = iter(await _list(session))

        async def some() -> None:
            for owner in todo:
                script = scripts[shape(number_of(owner), trials).name]
                for verb, kind, body in replay.calls(script, owner):
                    await _send(session, verb, _path(owner, kind), body)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def _path(owner: Object, kind: str) -> str:
    where, name = owner["metadata"]["namespace"], owner["metadata"]["name"]
    if kind == "status":
        return OPTIMIZATION_JOBS.path(where, name, "status")
    return (JOBS if kind == "jobs" else EVENTS).path(where)


async def _list(session: aiohttp.ClientSession) -> list[Object]:
    found: list[Object] = []
    token = ""
    while True:
        async with session.get(f"{OPTIMIZATION_JOBS.path()}?limit=500&continue={token}") as response:
            page = await response.json()
        found += page["items"]
        token = page["metadata"].get("continue", "")
        if not token:
            return found


async def _send(session: aiohttp.ClientSession, verb: str, path: str, body: Object) -> None:
    kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
    async with session.request(verb, path, data=json.dumps(body), headers={"Content-Type": kind}) as response:
        answer = await response.read()
    if response.status >= 300:
        raise SystemExit(f"{verb} {path}: {answer.decode()}")


async def _server() -> tuple[str, ssl.SSLContext]:
    """The address and certificates that $KUBECONFIG names."""
    async with await Client.connect() as client:
        found = await client.credentials()
    context = ssl.create_default_context(cafile=found["ca_path"])
    context.load_cert_chain(found["certificate_path"], found["private_key_path"])
    return found["server"], context


if __name__ == "__main__":
    asyncio.run(run(replay.load(Path(sys.argv[1])), int(sys.argv[2])))
