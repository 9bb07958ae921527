"""One rounded layer at a time, simulated in one session, beside a model in which that layer is quantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from odd_graphs import ODD, samples, source, workbench
from trimtab.api.model import EngineName
from trimtab.api.techniques import Quantize, QuantizeMethod
from trimtab_jobs import qdq
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.mixed_precision import distance, floats
from trimtab_jobs.onnx_graph import save
from trimtab_jobs.onnx_prepare import float_tensors, prepare
from trimtab_jobs.sensitivity import Simulation
from trimtab_jobs.techniques import quantize

NOTHING = {"If", "Loop", "float16", "float64", "no weights", "quantized", "trees"}
"""They have no layer to quantize."""
BROKEN = {"ranks", "shared weights"}
"""ONNX Runtime's dynamic quantization of one of their layers does not run, or answers with something else."""


@pytest.mark.parametrize(
    ("method", "name", "off"),
    [
        *((QuantizeMethod.STATIC, name, 0.1) for name in sorted(ODD.keys() - NOTHING)),
        *((QuantizeMethod.DYNAMIC, name, 1.0) for name in sorted(ODD.keys() - NOTHING - BROKEN)),
    ],
)
def test_a_rounded_layer_answers_as_the_quantized_one(
    tmp_path: Path, name: str, method: QuantizeMethod, off: float
) -> None:
    """Not to the last bit: kernels round sums at other places, and ONNX Runtime keeps half of a recurrence's secrets.

    What is `off` is told relative to what rounding moves; 0.01 is left for what moves next to nothing.
    """
    model = source(name, tmp_path / "source")
    bench = workbench(tmp_path, samples(model.onnx), model, [])
    config = Quantize(method=[method], operator_scope=["All"])
    prepared = prepare(model.onnx)
    network = qdq.Network(prepared, float_tensors(prepared))
    nodes = quantize._in_scope(network, config)
    how = quantize._METHODS[method](network, [node.name for node in nodes], config, bench)
    simulation = Simulation(prepared, {node.name: how.alone(node) for node in nodes}, threads=1)
    split = bench.splits.evaluation.spread(4)
    plain = floats(simulation.answers(split))
    (tmp_path / "real").mkdir()
    for node in nodes:
        session = engine(EngineName.ONNXRUNTIME).load(save(how.build([node.name]), tmp_path / "real"), EngineOptions())
        real = floats([output for sample in split.batches(1) for output in session.run(sample)])
        simulated = floats(simulation.answers(split, node.name))
        moved, missed = np.sqrt(distance(plain, real)), np.sqrt(distance(real, simulated))
        assert missed <= off * moved + 0.01, (node.name, node.op_type)
