"""Adding a technique, or an engine, touches four places and nothing else.

The test does it: on a copy of the sources it writes exactly the files named here, then runs the new technique through
the real CLI on a real model, and the engines' shared suite on the new engine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Edit:
    """One place that is touched: text put after a line of a file, or a new file when `after` is empty."""

    file: str
    after: str
    text: str


TECHNIQUE = (
    Edit(
        "operator/trimtab/api/techniques.py",
        '    learning_rate: Range = Field(fixed(0.001), description="The peak learning rate of Adam.")\n',
        '''

class Clip(Spec):
    """Bounds every weight, which narrows the ranges that a later quantization has to cover."""

    limit: Range = Field(fixed(1), description="The largest magnitude a weight may have.")
''',
    ),
    Edit(
        "operator/trimtab/api/techniques.py", "    distill: Distill | None = None\n", "    clip: Clip | None = None\n"
    ),
    Edit(
        "jobs/trimtab_jobs/techniques/clip.py",
        "",
        '''"""Bound the magnitude of every weight."""

import numpy as np
import onnx
from onnx import numpy_helper

from trimtab.api.model import ModelFormat
from trimtab.api.techniques import Clip, chosen_number
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.model import ONNX_FILE, Model
from trimtab_jobs.techniques import Bench


def clip(model: Model, config: Clip, bench: Bench) -> Model:
    """Clip float initializers to [-limit, limit]. Raises NotApplicable when none exceeds it."""
    limit = chosen_number(config.limit)
    graph = onnx.load(model.onnx)
    changed = 0
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and np.abs(values).max(initial=0) > limit:
            tensor.CopyFrom(numpy_helper.from_array(np.clip(values, -limit, limit), tensor.name))
            changed += 1
    if not changed:
        raise NotApplicable(f"clip.limit: no weight exceeds {limit}")
    onnx.save(graph, bench.out / ONNX_FILE)
    bench.note(f"clipped {changed} tensors")
    return Model(bench.out, ModelFormat.ONNX).save_manifest()
''',
    ),
    Edit(
        "jobs/trimtab_jobs/techniques/__init__.py",
        "TECHNIQUES: dict[str, Entry] = {\n",
        '    "clip": Entry("trimtab_jobs.techniques.clip:clip", ModelFormat.ONNX),\n',
    ),
)

ENGINE = (
    Edit("operator/trimtab/api/model.py", "class EngineName(StrEnum):\n", '    REFERENCE = "Reference"\n'),
    Edit(
        "jobs/trimtab_jobs/engines/reference.py",
        "",
        '''"""ONNX's own reference evaluator: slow, and right by definition."""

from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from trimtab.api.model import EngineName, ModelFormat
from trimtab_jobs.engines import Arrays, EngineOptions, Session, check_format
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.model import Model


class _Session:
    def __init__(self, model: Model) -> None:
        self._evaluator = ReferenceEvaluator(str(model.file))
        self.size = model.size

    def run(self, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        try:
            return self._evaluator.run(None, dict(inputs))
        except Exception as error:
            raise InvalidInput(f"inputs: {error}") from error


class Reference:
    """Loads a model into onnx.reference."""

    def load(self, model: Model, options: EngineOptions) -> Session:
        check_format(EngineName.REFERENCE, model, ModelFormat.ONNX)
        try:
            return _Session(model)
        except Exception as error:
            raise InvalidInput(f"{model.file}: the reference evaluator refuses it: {error}") from error
''',
    ),
    Edit(
        "jobs/trimtab_jobs/engines/__init__.py",
        "ENGINES: dict[EngineName, str] = {\n",
        '    EngineName.REFERENCE: "trimtab_jobs.engines.reference:Reference",\n',
    ),
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources, generated files included, without anything that was built."""
    for name in ("operator", "jobs", "crds", "docs", "charts", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def apply(copy: Path, edits: tuple[Edit, ...]) -> None:
    for edit in edits:
        file = copy / edit.file
        before = file.read_text() if edit.after else ""
        assert before.count(edit.after) == 1 or not edit.after, f"{edit.file} has no single line {edit.after!r}"
        file.write_text(before.replace(edit.after, edit.after + edit.text) if edit.after else edit.text)


def run(copy: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(copy / root) for root in ("operator", "jobs"))
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_technique_is_a_config_model_a_function_and_a_table_line(copy: Path, digits: Path) -> None:
    apply(copy, TECHNIQUE)
    assert run(copy, "-m", "trimtab.api.schema").returncode == 0
    job = yaml.safe_load((digits / "job.yaml").read_text())
    job["spec"]["techniques"] = [{"clip": {"limit": {"values": ["0.5", "0.2"]}}}]
    (copy / "job.yaml").write_text(yaml.safe_dump(job))
    done = run(copy, "-m", "trimtab", "run", "job.yaml", "--out", "out", "--volume", f"digits={digits}")
    assert done.returncode == 0, done.stderr
    assert "TrialSucceeded: trial 1 (clip limit=0.5): clipped" in done.stdout
    assert "TrialSucceeded: trial 2 (clip limit=0.2): clipped" in done.stdout
    crd = yaml.safe_load((copy / "crds" / "optimizationjobs.yaml").read_text())
    steps = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["techniques"]
    assert "clip" in steps["items"]["properties"]


def test_an_engine_is_a_name_a_class_and_a_table_line(copy: Path, digits: Path) -> None:
    apply(copy, ENGINE)
    assert run(copy, "-m", "trimtab.api.schema").returncode == 0
    job = yaml.safe_load((digits / "job.yaml").read_text())
    job["spec"]["target"] = {"engines": ["ONNXRuntime", "Reference"]}
    (copy / "job.yaml").write_text(yaml.safe_dump(job))
    done = run(copy, "-m", "trimtab", "run", "job.yaml", "--out", "out", "--volume", f"digits={digits}")
    assert done.returncode == 0, done.stderr
    assert "Reference" in done.stdout


def test_the_tables_hold_what_the_contract_names() -> None:
    from trimtab.api.model import EngineName
    from trimtab.api.techniques import TECHNIQUES as NAMED
    from trimtab.api.techniques import TRAINING
    from trimtab_jobs.engines import ENGINES
    from trimtab_jobs.techniques import TECHNIQUES

    assert set(TECHNIQUES) == set(NAMED) > TRAINING
    assert set(ENGINES) == set(EngineName)
