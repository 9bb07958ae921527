"""Tools are pinned by modules, and a binary's folder is named by all that goes into it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import tools


def directives(module: str) -> set[str]:
    """The packages that a module's `tool` directives name."""
    text = (tools.SOURCES / module / "go.mod").read_text()
    block = re.search(r"^tool \(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
    return set(block[1].split()) if block else set(re.findall(r"^tool (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("module", ["kubernetes", "etcd", "containerd", "helm", "kube-router", "s3"])
def test_each_tool_is_one_that_its_module_pins(module: str) -> None:
    assert {tool.package for tool in tools.TOOLS.values() if tool.module == module} == directives(module)


def test_kubernetes_is_stamped_with_the_version_it_is_pinned_at() -> None:
    assert re.search(r"version\.gitVersion=v1\.\d+\.\d+$", tools._ldflags(tools.TOOLS["kubelet"]))


@pytest.mark.parametrize("change", ["go.mod", "main.go", "compiler"])
def test_a_change_of_any_input_changes_the_path(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "pause"
    module.mkdir()
    for name in ("go.mod", "main.go"):
        (module / name).write_text("old")
    monkeypatch.setattr(tools, "SOURCES", tmp_path)
    monkeypatch.setattr(tools, "_compiler", lambda: "old")
    tools._key.cache_clear()
    before = tools.path("pause")
    if change == "compiler":
        monkeypatch.setattr(tools, "_compiler", lambda: "new")
    else:
        (module / change).write_text("new")
    tools._key.cache_clear()
    after = tools.path("pause")
    tools._key.cache_clear()
    assert before != after
