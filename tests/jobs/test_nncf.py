"""NNCF on real models: what OpenVINO makes of the result, what the guard spends, and what a pod notices of NNCF."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.status import Hardware, Verdict
from trimtab.api.techniques import Nncf
from trimtab.api.work import Report, Task
from trimtab_jobs.data import Array, Splits
from trimtab_jobs.engines import EngineOptions, Session, engine
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.model import Model, open_model
from trimtab_jobs.openvino_model import openvino
from trimtab_jobs.signature import inputs, outputs
from trimtab_jobs.store import Store, digest_folder
from trimtab_jobs.techniques import Bench
from trimtab_jobs.techniques import nncf as module
from trimtab_jobs.techniques.nncf import nncf

from .conftest import Lab
from .test_run import finalist, publish_task

MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
PLAIN = {"calibration_samples", "max_drop", "max_evaluations"}
"""The settings that are no choice."""
OUTLIER = """
<ir_version: 8, opset_import: ["" : 15]>
net (float[N,64] image) => (float[N,10] logits) {
    spread = MatMul (image, outlier)
    seen = Relu (spread)
    a = MatMul (seen, w0)
    b = Add (a, b0)
    active = Relu (b)
    c = MatMul (active, w1)
    logits = Add (c, b1)
}
"""
"""The digits perceptron behind a layer that adds one huge activation, which is then ignored: in INT8 the others get no
levels."""
ELEMENTWISE = '<ir_version: 8, opset_import: ["" : 15]> net (float[N,4] image) => (float[N,4] y) { y = Sin (image) }'
UNKNOWN = (
    '<ir_version: 8, opset_import: ["" : 15, "acme" : 1]> net (float[N,4] image) => (float[N,4] y) '
    "{ y = acme.Mystery (image) }"
)


class Workbench:
    """Quantizes an ONNX file; judges sessions by the labels of evaluation, and counts how often."""

    def __init__(self, folder: Path, source: Path, data: Path) -> None:
        self.source = Model(folder / "source", ModelFormat.ONNX)
        self.out = folder / "out"
        for made in (self.source.folder, self.out):
            made.mkdir()
        shutil.copy(source, self.source.onnx)
        self.splits = Splits({name: data / f"{name}.npz" for name in ("calibration", "evaluation")})
        self.notes: list[str] = []
        self.drops: list[float] = []
        self.floats: list[str] = []

    def quantize(self, **config: Any) -> Model:
        settings = {"operator_scope": "Compute"} | config
        chosen = Nncf(**{name: value if name in PLAIN else [value] for name, value in settings.items()})
        bench = Bench(self.out, self.source, self.splits, 0, 1, self.notes.append, self.drop, self.floats)
        return nncf(self.source, chosen, bench)

    def drop(self, session: Session) -> float:
        self.drops.append(self.accuracy(engine(EngineName.ONNXRUNTIME).load(self.source, EngineOptions())))
        self.drops[-1] -= self.accuracy(session)
        return self.drops[-1]

    def accuracy(self, session: Session) -> float:
        split = self.splits.evaluation
        return float((session.run(split.inputs)[0].argmax(1) == split.labels).mean())


def answers(model: Model, given: dict[str, Array], name: EngineName = EngineName.OPENVINO) -> Array:
    return engine(name).load(model, EngineOptions()).run(given)[0]


def written(folder: Path, text: str, digits: Path) -> Path:
    """A model of this text, with the weights of the digits perceptron."""
    model = onnx.parser.parse_model(text)
    trained = {t.name: numpy_helper.to_array(t) for t in onnx.load(digits / "model.onnx").graph.initializer}
    trained["outlier"] = np.hstack([np.eye(64), np.full((64, 1), 1e4)]).astype(np.float32)
    trained["w0"] = np.vstack([trained["w0"], np.zeros_like(trained["w0"][:1])])
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in trained.items() if name in used)
    onnx.save(model, folder / "written.onnx")
    return folder / "written.onnx"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"operator_scope": "All"},
        {"preset": "Mixed"},
        {"model_type": "Transformer"},
        {"fast_bias_correction": False},
        {"max_drop": "1%"},
    ],
    ids=str,
)
def test_a_trained_model_keeps_its_accuracy(digits: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    bench = Workbench(tmp_path, digits / "model.onnx", digits)
    quantized = bench.quantize(**config)
    assert open_model(quantized.folder) == quantized
    assert (quantized.folder / "model.bin").stat().st_size < 0.4 * bench.source.size
    assert bench.drop(engine(EngineName.OPENVINO).load(quantized, EngineOptions())) < 0.02
    assert "2 MatMul in INT8, ranges from 200 samples" in bench.notes[0]


@pytest.mark.parametrize(("flags", "reduced"), [(["avx2"], True), (["avx2", "avx_vnni"], False)])
def test_the_cpus_flags_decide_how_many_bits_weights_have(
    digits: Path, tmp_path: Path, flags: list[str], reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "hardware", lambda: Hardware(flags=flags))
    bench = Workbench(tmp_path, digits / "model.onnx", digits)
    stored = openvino.Core().read_model(bench.quantize().file).get_ops()
    weights = [one.data for one in stored if str(one.get_element_type()) == "<Type: 'int8_t'>"]
    assert len(weights) == 2
    assert all((np.abs(one.astype(int)).max() <= 64) == reduced for one in weights)
    assert ("weights of 7 bits" in bench.notes[0]) == reduced


def test_magika_keeps_its_signature_and_nearly_its_answers(tmp_path: Path) -> None:
    files = np.random.default_rng(0).integers(0, 257, (8, 2048), dtype=np.int32)
    np.savez(tmp_path / "calibration.npz", bytes=files)
    bench = Workbench(tmp_path, MAGIKA, tmp_path)
    quantized = bench.quantize()
    assert inputs(quantized) == inputs(bench.source)
    assert outputs(quantized) == outputs(bench.source)
    assert bench.notes[0].startswith("1 Convolution, 2 MatMul in INT8, ranges from 8 samples")
    truth = answers(bench.source, {"bytes": files}, EngineName.ONNXRUNTIME)
    np.testing.assert_allclose(answers(quantized, {"bytes": files}), truth, atol=0.1)


def test_the_guard_gives_back_the_layer_that_costs(digits: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path, written(tmp_path, OUTLIER, digits), digits)
    quantized = bench.quantize(max_drop="1%")
    assert bench.drops[1] > 0.1
    assert bench.drops[-1] <= 0.01
    assert 0 < len(bench.floats) < 3
    assert "layers left in floating point" in bench.notes[-1]
    assert bench.drop(engine(EngineName.OPENVINO).load(quantized, EngineOptions())) <= 0.01


def test_a_drop_of_exactly_the_promise_keeps_it(digits: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path, digits / "model.onnx", digits)
    bench.drop = lambda session: 0.95 - 0.94
    bench.quantize(max_drop="1%")
    assert bench.floats == []


@pytest.mark.parametrize("budget", [4, 6])
def test_the_guard_ends_within_its_budget(digits: Path, tmp_path: Path, budget: int) -> None:
    """Labels that are the model's own answers to noise, which nothing but the model itself repeats."""
    noise = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    labels = answers(Model(digits, ModelFormat.ONNX), {"image": noise}, EngineName.ONNXRUNTIME).argmax(1)
    np.savez(tmp_path / "evaluation.npz", image=noise, labels=labels)
    shutil.copy(digits / "calibration.npz", tmp_path)
    bench = Workbench(tmp_path, written(tmp_path, OUTLIER, digits), tmp_path)
    with pytest.raises(NotApplicable, match=r"^nncf: (.* is still lost after|no operator is left in INT8)"):
        bench.quantize(max_drop="0%", max_evaluations=budget)
    assert 2 < len(bench.drops) <= budget


@pytest.mark.parametrize(
    ("text", "reason"),
    [(ELEMENTWISE, "no operator is left in INT8"), (UNKNOWN, "OpenVINO cannot convert this model: .*Mystery")],
    ids=["nothing to quantize", "unknown operator"],
)
def test_says_why_it_does_not_apply(digits: Path, tmp_path: Path, text: str, reason: str) -> None:
    np.savez(tmp_path / "calibration.npz", image=np.ones((3, 4), np.float32))
    bench = Workbench(tmp_path, written(tmp_path, text, digits), tmp_path)
    with pytest.raises(NotApplicable, match=f"^nncf: {reason}"):
        bench.quantize(operator_scope="All")
    assert not list(bench.out.iterdir())


ALONE = """
import os, sys
from pathlib import Path
sys.path += [sys.argv[1]]
from tests.jobs.test_nncf import Workbench
bench = Workbench(Path(sys.argv[2]), Path(sys.argv[3], "model.onnx"), Path(sys.argv[3]))
bench.quantize(max_drop="1%")
print(sorted({"torch", "openvino_telemetry.main"} & sys.modules.keys()), len(os.sched_getaffinity(0)))
"""


def test_a_pod_notices_nothing_of_it(digits: Path, tmp_path: Path) -> None:
    """No torch, no telemetry, no line in the log, no CPU lost; and the same bytes in every process."""
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        root = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", ALONE, root, str(folder), str(digits)],
            env=environment | {"HOME": str(folder / "out")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == (f"[] {len(os.sched_getaffinity(0))}\n", "")
        digests.add(digest_folder(folder / "out"))
    assert len(digests) == 1


def test_it_is_measured_and_published_for_openvino(lab: Lab, succeed: Callable[[Task], Report]) -> None:
    both = {"engines": ["ONNXRuntime", "OpenVINO"]}
    step = {"nncf": {"operatorScope": ["Compute"], "maxDrop": "5%"}}
    inspected = succeed(lab.task("Inspect", target=both))
    made = succeed(lab.task("Trial", trial=1, target=both, steps=[step]))
    model = Store(lab.folder("store")).model(made.artifact)
    assert model.format == ModelFormat.OPENVINO
    refused, measured = made.measurements
    assert (refused.executed, measured.executed) == (False, True)
    assert refused.note == "model.xml: ONNXRuntime cannot run OpenVINO models"
    winner = finalist(made.artifact, 1, EngineName.OPENVINO)
    entrants = [finalist(inspected.artifact).wire(), winner.wire()]
    assert len(succeed(lab.task("Playoff", target=both, finalists=entrants)).timings) == 2
    task = publish_task(lab, inspected, made.artifact).model_copy(update={"winner": winner})
    published = succeed(task)
    assert published.claim
    assert published.claim.verdict == Verdict.HOLDS
    current = (lab.folder("published") / "digits" / "current.json").read_text()
    assert '"engine": "OpenVINO"' in current
    assert '"format": "OpenVINO"' in current
