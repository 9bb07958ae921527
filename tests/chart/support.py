"""The chart's objects, as a real helm renders them."""

from __future__ import annotations

import subprocess
from typing import Any

import yaml

import apiserver
from trimtab.api.schema.__main__ import ROOT

CHART = ROOT / "charts" / "trimtab"
NAMESPACE = "trimtab-system"
Object = dict[str, Any]


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Helm without a cluster."""
    return subprocess.run([apiserver.tool("helm"), *words], text=True, capture_output=True, check=False)


def render(*settings: str) -> list[Object]:
    """The chart's objects, given `--set` settings."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = helm("template", "trimtab", str(CHART), "--namespace", NAMESPACE, *chosen)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def the(kind: str, objects: list[Object], name: str = "trimtab") -> Object:
    [found] = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return found
