"""One version for everything that `make release` makes, and archives that only the commit decides."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import release
from lab.shell import LabError
from trimtab import __version__
from trimtab.api.schema.__main__ import ROOT, version


def test_versions_agree() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "trimtab" / "Chart.yaml").read_text())
    assert {__version__, chart["version"], chart["appVersion"]} == {version()}
    release.check_versions(version())


def test_a_version_that_was_forgotten_is_named() -> None:
    with pytest.raises(LabError, match=rf"__version__ is {re.escape(__version__)}, and pyproject.toml says 9.9.9"):
        release.check_versions("9.9.9")


def test_every_target_of_the_dockerfile_is_released() -> None:
    stages = re.findall(r"^FROM python AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(set(stages) - {"project"}) == sorted(release.TARGETS)


def test_a_packaged_chart_does_not_tell_when() -> None:
    def packaged(names: list[str], when: int) -> bytes:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(name), when
                archive.addfile(member, io.BytesIO(name.encode()))
        return content.getvalue()

    first, second = packaged(["a", "b"], 1), packaged(["b", "a"], 2)
    assert first != second
    assert release.retimed(first, 7) == release.retimed(second, 7)
    with tarfile.open(fileobj=io.BytesIO(release.retimed(second, 7))) as archive:
        assert [(member.name, member.mtime) for member in archive] == [("a", 7), ("b", 7)]


LAYOUT: dict[str, Any] = {
    "index.json": {"manifests": [{"digest": "sha256:abc"}]},
    "blobs/sha256/abc": {
        "config": {"digest": "sha256:def"},
        "annotations": {"org.opencontainers.image.base.name": "localhost/python-base:1"},
    },
    "blobs/sha256/def": {"rootfs": {"diff_ids": ["sha256:base", "sha256:ours"]}},
}


def test_an_images_archive_does_not_tell_when_and_its_digests_are_those_of_the_layout(tmp_path: Path) -> None:
    def packed(name: str, when: int) -> bytes:
        layout, archive = tmp_path / name, tmp_path / f"{name}.tar"
        for file, content in LAYOUT.items():
            (layout / file).parent.mkdir(parents=True, exist_ok=True)
            (layout / file).write_text(json.dumps(content))
            os.utime(layout / file, (when, when))
        release.pack(layout, archive, 7)
        return archive.read_bytes()

    assert packed("first", 1) == packed("second", 2)
    assert release.digests(tmp_path / "first") == {
        "oci:manifest:digest": "sha256:abc",
        "oci:base:name": "localhost/python-base:1",
        "oci:base:layer": "sha256:base",
    }


def test_a_bill_of_materials_says_of_what_it_is() -> None:
    bom = {"specVersion": "1.6", "metadata": {"tools": {}}, "components": [{"name": "kopf"}]}
    made = release.of_image(bom, "operator", "1.2.3", {"oci:base:layer": "sha256:base"})
    assert made["metadata"]["component"]["name"] == "trimtab-operator"  # type: ignore[index]
    assert made["metadata"]["component"]["properties"] == [  # type: ignore[index]
        {"name": "oci:base:layer", "value": "sha256:base"}
    ]
    assert [component["name"] for component in made["components"]] == ["trimtab", "kopf"]  # type: ignore[attr-defined]
