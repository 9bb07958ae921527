"""Buckets of a real S3 server: what a job is given comes from one, and its winner is published to another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bad_inputs import SPLITS, write_inputs
from s3 import S3, s3_server
from trimtab_jobs import remote
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.inputs import fetch
from trimtab_jobs.model import open_model
from trimtab_jobs.publish import PROFILE, PUBLICATION
from trimtab_jobs.remote import Bucket
from trimtab_jobs.store import digest_file

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        write_inputs(server.bucket("given"))
        server.bucket("published")
        yield server


@pytest.fixture
def login(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    remote._bucket.cache_clear()
    yield
    remote._bucket.cache_clear()


def test_a_job_between_buckets(s3: S3, tmp_path: Path) -> None:
    job = {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "OptimizationJob",
        "metadata": {"name": "centers"},
        "spec": {
            "model": {"uri": "s3://given/model.onnx", "format": "ONNX"},
            "data": {name: {"uri": f"s3://given/{name}.npz"} for name in SPLITS},
            "constraints": [{"metric": "accuracy", "maxDrop": "50%"}],
            "techniques": [{"optimizeGraph": {}}],
            "publish": {"uri": "s3://published/centers"},
        },
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "trimtab", "run", "job.yaml", "--out", "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | s3.variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    published = s3.root / "published" / "centers"
    current = json.loads((published / "current.json").read_text())
    assert f"published: s3://published/centers/{current['path']}" in done.stdout
    model = open_model(published / current["path"])
    assert {PROFILE, PUBLICATION, model.onnx.name} <= {path.name for path in model.folder.iterdir()}
    fetched = [path.name for path in (tmp_path / "out" / "store" / "inputs").glob("*/*")]
    assert sorted(fetched) == sorted(["model.onnx", *(f"{name}.npz" for name in SPLITS)])  # once, by all pods


def optimize(s3: S3, folder: Path, *given: str) -> str:
    """What it prints."""
    command = [sys.executable, "-m", "trimtab", "optimize", "s3://given/model.onnx", *given]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | s3.variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_and_splits_at_addresses_are_looked_at(s3: S3, tmp_path: Path) -> None:
    spec = yaml.safe_load(optimize(s3, tmp_path, "--data", "s3://given/", "--dry-run"))["spec"]
    assert spec["model"]["uri"] == "s3://given/model.onnx"
    assert {name: split["uri"] for name, split in spec["data"].items()} == {
        name: f"s3://given/{name}.npz" for name in SPLITS
    }


def test_from_two_addresses_to_a_third(s3: S3, tmp_path: Path) -> None:
    asked = ["--engines", "ONNXRuntime", "--timeout", "1s", "--publish", "s3://published/optimized"]
    said = optimize(s3, tmp_path, "--data", "s3://given/evaluation.npz", *asked)
    current = json.loads((s3.root / "published" / "optimized" / "current.json").read_text())
    assert f"published: s3://published/optimized/{current['path']}" in said


@pytest.mark.parametrize("size", [1, 40_000_000])
def test_what_is_written_is_read_back(s3: S3, login: None, tmp_path: Path, size: int) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.onnx").write_bytes(os.urandom(size))
    Bucket("s3://published/files", "publish").place(tmp_path / "made", f"of-{size}")
    path = fetch(f"s3://published/files/of-{size}", "model.uri", SharedFolder(tmp_path / "store", "store"))
    assert digest_file(path) == digest_file(tmp_path / "made" / "model.onnx")


@pytest.mark.parametrize(
    ("variables", "uri", "says"),
    [
        ({}, "s3://given/none.npz", "there is nothing at this address"),
        ({}, "s3://nobody/x.npz", "there is nothing at this address"),
        (
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            "s3://given/model.onnx",
            "no permission .*: set AWS_ACCESS_KEY_ID",
        ),
        ({"AWS_ACCESS_KEY_ID": ""}, "s3://given/model.onnx", "no permission .*: set AWS_ACCESS_KEY_ID"),
    ],
)
def test_refusals(
    login: None, variables: dict[str, str], uri: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(InvalidInput, match=rf"^model.uri: {uri}: {says}"):
        fetch(uri, "model.uri", SharedFolder(tmp_path / "store", "store"))


def test_publishing_where_no_bucket_is(login: None) -> None:
    with pytest.raises(InvalidInput, match=r"^publish: s3://nobody/a/current.json: there is nothing at this address"):
        Bucket("s3://nobody/a", "publish").write("current.json", "{}")
