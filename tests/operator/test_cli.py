"""The command: what it loads, what it says, how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from builders import job_dict

HEAVY = ["torch", "kopf", "kubernetes", "pydantic", "numpy", "optuna", "aiohttp", "yaml", "rich", "jinja2", "shtab"]
LOADED = """
import sys
from trimtab.{} import main
try:
    main(["--help"])
except SystemExit:
    print(*sys.modules)
"""


def trimtab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trimtab", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", ["cli", "plugin"])
def test_help_loads_nothing_heavy(program: str) -> None:
    command = [sys.executable, "-c", LOADED.format(program)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not set(HEAVY) & set(shown.split())


@pytest.mark.parametrize(
    "command", [[], ["optimize"], ["init"], ["run"], ["explain"], ["validate"], ["completion"], ["operator"]]
)
def test_every_command_has_help(command: list[str]) -> None:
    shown = trimtab(*command, "--help")
    assert shown.returncode == 0
    assert "usage: trimtab" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["validate", "bad.yaml"], "bad.yaml: spec.serch: unknown field; did you mean search?"),
        (["run", "good.yaml", "--volume", "data"], "--volume data: write CLAIM=DIR"),
        (
            ["run", "unwritable.yaml", "--volume", "models=.", "--volume", "data=."],
            "spec.publish.uri: file:///proc/x: cannot be written: No such file or directory; name another folder",
        ),
        (
            ["run", "unpublished.yaml", "--volume", "models=.", "--volume", "data=.", "--out", "/proc/x"],
            "--out /proc/x: cannot be written: No such file or directory; name another folder",
        ),
        (["run", "paused.yaml"], "spec.suspend: true: nothing would run; set it to false"),
        (
            ["run", "good.yaml"],
            "spec.model.uri: pvc://models/m.onnx: no folder stands for the claim 'models'; add --volume models=DIR",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(job_dict(serch={})))
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(job_dict()))
    (tmp_path / "unwritable.yaml").write_text(yaml.safe_dump(job_dict(publish={"uri": "file:///proc/x"})))
    (tmp_path / "unpublished.yaml").write_text(yaml.safe_dump(job_dict(publish=None)))
    (tmp_path / "paused.yaml").write_text(yaml.safe_dump(job_dict(suspend=True)))
    shown = subprocess.run(
        [sys.executable, "-m", "trimtab", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert shown.returncode == 2
    assert shown.stderr == line + "\n"
    assert not list(tmp_path.glob(".trimtab/*"))


def test_a_run_says_what_only_a_cluster_can_do(tmp_path: Path) -> None:
    spec = {"image": "jobs:dev", "store": {"uri": "pvc://store"}, "distributed": {"numNodes": 2}}
    runtime = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "OptimizationRuntime", "metadata": {"name": "gpus"}}
    job, path = job_dict(target={"device": "GPU"}), tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump_all([job, runtime | {"spec": spec}]))
    *said, refused = trimtab("run", str(path)).stderr.splitlines()
    assert said == [
        f"{path}: spec.target.device: GPU is for clusters: here engines run on the CPU",
        f"{path}: OptimizationRuntime gpus: spec.distributed is for clusters: here a step that trains is one process",
    ]
    assert refused.startswith("spec.model.uri: ")


def test_a_good_manifest_is_valid(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(job_dict()))
    assert trimtab("validate", str(tmp_path / "good.yaml")).returncode == 0


@pytest.mark.parametrize("command", ["completion bash", "explain good.yaml"])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(job_dict()))
    reader, writer = os.pipe()
    os.close(reader)
    shown = subprocess.run(
        [sys.executable, "-m", "trimtab", *command.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        cwd=tmp_path,
    )
    os.close(writer)
    assert (shown.returncode, shown.stderr) == (141, b"")
