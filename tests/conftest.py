"""Skips are loud: in CI every one must be on the committed list `tests/skips.txt`, with its reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.register_assert_rewrite("stories")  # or its checks would fail without saying what they saw

ALLOWED = Path(__file__).with_name("skips.txt")
_unlisted: list[str] = []


def pytest_configure() -> None:
    """`timeout` and CI end a run by SIGTERM, which would leave its API server and etcd running."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _allowed() -> list[str]:
    lines = (line.strip() for line in ALLOWED.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """With xdist this runs in the controller too, which is the one that exits."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in _allowed()):
            _unlisted.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unlisted and os.environ.get("CI") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _unlisted:
        terminalreporter.write_line(f"skipped and not listed in {ALLOWED.name}: {line}", red=True)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small trained ONNX model, its splits and its job.yaml; read only."""
    from models import make_digits

    return make_digits(tmp_path_factory.mktemp("digits"))
