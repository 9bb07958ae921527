"""Serve a published model: `python -m trimtab_jobs.serve --model-name magika --from pvc://published/magika`."""

from __future__ import annotations

import argparse
import re
import sys

import uvicorn
from prometheus_client import disable_created_metrics

from trimtab.api.work import INVALID_INPUT_EXIT
from trimtab_jobs import logs
from trimtab_jobs.drift.calibration import WINDOWS
from trimtab_jobs.errors import WorkFailure
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.hardware import threads
from trimtab_jobs.serve.app import make_app
from trimtab_jobs.serve.host import Host
from trimtab_jobs.serve.served import Options
from trimtab_jobs.store import resolve

NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
"""As `spec.target.model` of a ModelMonitor, which finds the server's metrics by it."""

GRACE_SECONDS = 10


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM. Returns the exit code."""
    given = _parser().parse_args(arguments)
    logs.to_stdout("%(asctime)s %(levelname)s %(message)s")
    try:
        folder = resolve(given.source, "--from")
        capture = SharedFolder(resolve(given.capture, "--capture"), "--capture") if given.capture else None
    except WorkFailure as failure:
        sys.stderr.write(f"{failure}\n")
        return INVALID_INPUT_EXIT
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter, which nothing reads
    options = Options(given.threads or threads(), given.window, capture, given.capture_rows)
    uvicorn.run(
        make_app(Host(given.model_name, folder, options)),
        host=given.host,
        port=given.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m trimtab_jobs.serve", description="Serve what a job published.")
    parser.add_argument("--model-name", required=True, type=_name, help="the name in URLs and in metrics")
    parser.add_argument("--from", dest="source", required=True, metavar="URI", help="the folder of spec.publish.uri")
    parser.add_argument("--capture", metavar="URI", help="write drifted rows into this folder; left out: never")
    parser.add_argument("--capture-rows", type=int, default=1024, help="how many rows (default: %(default)s)")
    parser.add_argument("--window", type=int, default=256, choices=WINDOWS, help="rows that drift is judged on (256)")
    parser.add_argument("--threads", type=int, help="threads of the engine (default: the CPU quota)")
    parser.add_argument("--host", default="0.0.0.0", help="the address to listen on (default: all)")  # noqa: S104
    parser.add_argument("--port", type=int, default=8080)
    return parser


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no model name: use letters, digits, '-', '_' and '.'")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
