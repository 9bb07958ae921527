"""What the operator takes from the end of a log, which a tenant has written: one line of one form, or nothing."""

from __future__ import annotations

import pytest

from trimtab.api.doing import LONGEST, Doing, last_told

SECOND = Doing(step=2, steps=4, what="distill: epoch 3 of 10")


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("", None),
        ("Trial of ml/m\nONNXRuntime: accuracy 95%\n", None),
        (SECOND.line, SECOND),
        (f"{SECOND.line}\r\n", SECOND),
        (f"progress: step 1 of 4, prune\n{SECOND.line}\nUserWarning: beta\n", SECOND),
        (f"{SECOND.line}\nprogress: step 3 of 4, quan\x1b[31mtize\n", SECOND),
        (f"{SECOND.line}\nprogress: step 5 of 4, quantize\n", SECOND),
        (f"{SECOND.line}\nprogress: step 3 of 4, \n", SECOND),
        (f"{SECOND.line}\nprogress: step 3 of 4, 量化\n", SECOND),
        (f"{SECOND.line}\nprogress: step 3 of 1000, quantize\n", SECOND),
        (f"{SECOND.line}\nprogress: step 0 of 4, quantize\n", SECOND),
        (f"{SECOND.line}\n progress: step 3 of 4, quantize\n", SECOND),
        (f"{SECOND.line}\nprogress: step 3 of 4, quantize\x0b\n", SECOND),
        ("e of 4, quantize\nprogress: step ٣ of ٤, quantize\n", None),
        (f"progress: step 1 of 1, {'x' * 10_000}", Doing(step=1, steps=1, what="x" * LONGEST)),
        (f"progress: step 1 of 1, {'x' * (LONGEST - 1)} y", Doing(step=1, steps=1, what="x" * (LONGEST - 1))),
    ],
)
def test_the_last_line_of_the_form_counts(log: str, found: Doing | None) -> None:
    assert last_told(log) == found


def test_what_is_done_are_the_steps_before() -> None:
    assert [Doing(step=step, steps=4, what="x").done for step in (1, 3, 4)] == [0.0, 0.5, 0.75]
