"""What a process tells of how far it is, and that the operator reads the same in its log."""

from __future__ import annotations

import logging

import pytest

from trimtab.api.doing import Doing, last_told
from trimtab_jobs import progress


def test_steps_are_told_at_once_and_parts_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [100.0]
    monkeypatch.setattr("trimtab_jobs.progress.time.monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "trimtab_jobs"):
        progress.begin(1, 2, "distill")
        for epoch in range(1, 11):
            clock[0] += progress.TOLD_SECONDS / 4
            progress.part(f"epoch {epoch} of 10")
        progress.begin(2, 2, "measuring")
    assert [last_told(message) for message in caplog.messages] == [
        Doing(step=1, steps=2, what="distill"),
        Doing(step=1, steps=2, what="distill: epoch 4 of 10"),
        Doing(step=1, steps=2, what="distill: epoch 8 of 10"),
        Doing(step=2, steps=2, what="measuring"),
    ]
