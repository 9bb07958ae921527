"""A lab in a folder of the test's own, with a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import paths


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_LAB", str(tmp_path / "lab"))
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    paths.state().mkdir()
    return paths.state()
