"""One process under limits: how it ended, in words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.spawn import Limits, spawn


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("pass", ""),
        ("import os; assert len(os.sched_getaffinity(0)) == 1", ""),
        ("raise SystemExit('no such tool')", "exit code 1: no such tool"),
        ("bytearray(2**30)", "exit code 1: MemoryError"),
        ("import time; time.sleep(60)", "not done after 3 s"),
    ],
    ids=["done", "one core", "failed", "too much memory", "too slow"],
)
def test_how_a_process_ended(program: str, failure: str, tmp_path: Path) -> None:
    ran = spawn([sys.executable, "-c", program], tmp_path / "log", Limits(seconds=3, memory=2**29))
    assert ran.failure == failure
    assert ran.peak_memory > 0
