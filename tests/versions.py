"""This version and the previous one, as code that processes run and as what their charts install.

The previous one is what `make record` kept: its wheel, unpacked, for the operator and for the image of pods, with the
libraries of the present one; and its chart, for the CRDs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import apiserver
from process_node import SOURCES

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Version:
    image: str
    code: str
    """Where Python finds it, as PYTHONPATH."""
    chart: Path

    @cached_property
    def crds(self) -> dict[str, Any]:
        """What its chart has, by name."""
        rendered = apiserver.helm("template", "trimtab", self.chart)
        assert rendered.returncode == 0, rendered.stderr
        documents = [each for each in yaml.safe_load_all(rendered.stdout) if each]
        return {each["metadata"]["name"]: each for each in documents if each["kind"] == "CustomResourceDefinition"}

    def install_crds(self) -> None:
        """As its chart does at install, upgrade and rollback: one that it does not know stays."""
        apiserver.apply_crds(yaml.safe_dump_all(self.crds.values()))


def present() -> Version:
    return Version("jobs:present", SOURCES, apiserver.REPOSITORY / "charts" / "trimtab")


def previous(folder: Path) -> Version:
    """Unpacked into the folder."""
    [wheel] = (TESTS / "contracts" / "recorded").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    where = "import trimtab, trimtab_jobs; print(trimtab.__file__, trimtab_jobs.__file__)"
    environment = {"PYTHONPATH": str(folder)}
    found = subprocess.run([sys.executable, "-c", where], env=environment, text=True, capture_output=True, check=True)
    assert found.stdout.split() == [str(folder / name / "__init__.py") for name in ("trimtab", "trimtab_jobs")]
    return Version("jobs:previous", str(folder), TESTS / "chart" / "previous.tgz")
