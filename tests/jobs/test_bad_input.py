"""Every case of `bad_inputs`: exit code 2, one line that says it all, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bad_inputs import CASES
from trimtab.api.work import INVALID_INPUT_EXIT, ErrorKind, Task

from .conftest import Ended, Lab


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line_and_nothing_half_written(lab: Lab, perform: Callable[[Task], Ended], name: str) -> None:
    spoiled = CASES[name].spoil(lab.folder("inputs"))
    ended = perform(lab.task("Inspect", **spoiled))
    assert ended.code == INVALID_INPUT_EXIT, ended.stderr
    (line,) = ended.stderr.splitlines()
    for words in CASES[name].says:
        assert words in line
    assert ended.report
    assert ended.report.error
    assert ended.report.error.kind == ErrorKind.PERMANENT
    assert line == f"InvalidInput: {ended.report.error.message}"
    assert not [path for path in lab.written("store") if path.startswith((".tmp/", "cache/"))]
    assert lab.written("published") == []
