"""Post-training INT8 quantization in OpenVINO's own format, by NNCF (Kozlov et al., arXiv:2002.08679).

Where `quantize` leaves Q/DQ nodes for any engine to make sense of, NNCF knows which operators OpenVINO's CPU kernels
fuse and share scales, and corrects the biases that rounding shifts. Only OpenVINO runs what it writes.

x86 without VNNI adds products of 8 bits in 16 and saturates; NNCF then protects the first layer only. Here all
weights get half the range there, and the whole of it elsewhere: the CPU's flags decide.

With `maxDrop` the layers whose quantization moves the answers most go back to floating point, one at a time, and the
evaluation split is run `maxEvaluations` times at the most, however many layers there are. Which layers those are, NNCF
asks about calibration samples: its own ranking by outputs (3.4) begins with the layer that matters least, and on magika
with every operator in INT8 (22 points lost) eight layers given back made it 77; ranked from the other end, 0.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

from trimtab.api.metrics import ROUNDING, keeps
from trimtab.api.model import EngineName
from trimtab.api.quantities import parse_percent, show_percent
from trimtab.api.techniques import Nncf, NncfModelType, OperatorScope, chosen, chosen_int
from trimtab_jobs import openvino_model
from trimtab_jobs.data import Array
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.engines.openvino import OpenVinoSession
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.hardware import hardware, saturates
from trimtab_jobs.mixed_precision import distance, floats
from trimtab_jobs.model import Model
from trimtab_jobs.nncf_guest import nncf as guest
from trimtab_jobs.openvino_model import openvino
from trimtab_jobs.techniques import Bench, counted

Sample = dict[str, Array]

CONVOLUTIONS = frozenset({"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData"})
PRODUCTS = frozenset({"MatMul"})
SCOPES = {
    OperatorScope.COMPUTE: CONVOLUTIONS | PRODUCTS,
    OperatorScope.CONV: CONVOLUTIONS,
    OperatorScope.MATMUL: PRODUCTS,
}
OBSERVED, RANKED_ON = 32, 16
"""Calibration samples on which an attempt is compared with the original, and the worst of them, on which layers are
ranked: each layer costs as many inferences."""
OTHER_EVALUATIONS = 3
"""Of the model in floating point, of the one all in INT8, and of the result."""


def nncf(model: Model, config: Nncf, bench: Bench) -> Model:
    """Write the INT8 model to `bench.out`.

    Raises NotApplicable where OpenVINO or NNCF cannot take the model, where nothing is quantized, and where `maxDrop`
    cannot be kept.
    """
    graph = openvino_model.from_onnx(model, "nncf")
    samples = list(bench.splits.calibration.spread(chosen_int(config.calibration_samples)).batches(1))
    with guest("nncf", bench.threads) as module:
        if config.max_drop is None:
            quantized = _plain(module, graph, samples, config)
        else:
            quantized = _guarded(module, graph, samples, config, bench)
    counts = _quantized(quantized)
    if not counts:
        raise NotApplicable("nncf: no operator is left in INT8")
    made = openvino_model.save(quantized, bench.out, model.details)
    bench.note(_note(counts, len(samples)))
    if config.max_drop is not None:
        bench.float_layers.extend(_float_layers(quantized, chosen(config.operator_scope)))
        bench.note(_kept(made, config, bench))
    return made


def _plain(module: Any, graph: Any, samples: list[Sample], config: Nncf) -> Any:
    settings = _settings(module, graph, config, samples)
    return module.quantize(graph, module.Dataset(samples), advanced_parameters=_advanced(module), **settings)


def _guarded(module: Any, graph: Any, samples: list[Sample], config: Nncf, bench: Bench) -> Any:
    ranked_on = list(islice(cycle(bench.splits.calibration.spread(OBSERVED).batches(1)), OBSERVED))
    session = OpenVinoSession(openvino.compile_model(graph, "CPU"), size=0)
    expected = [floats(session.run(sample)) for sample in ranked_on]

    def validate(compiled: Any, chosen: Iterable[int]) -> tuple[float, list[float]]:
        """Higher is better. NNCF asks about all samples to judge an attempt, and about the worst to rank layers."""
        session = OpenVinoSession(compiled, size=0)
        near = [-distance(expected[index], floats(session.run(ranked_on[index]))) for index in chosen]
        if len(near) < OBSERVED:
            return sum(near) / len(near), near
        return 1 - bench.drop(session), near

    return module.quantize_with_accuracy_control(
        graph,
        module.Dataset(samples),
        module.Dataset(range(OBSERVED)),
        validate,
        max_drop=parse_percent(config.max_drop or "") + ROUNDING,
        drop_type=module.DropType.ABSOLUTE,
        advanced_quantization_parameters=_advanced(module),
        advanced_accuracy_restorer_parameters=module.AdvancedAccuracyRestorerParameters(
            max_num_iterations=config.max_evaluations - OTHER_EVALUATIONS,
            ranking_subset_size=RANKED_ON,
            num_ranking_workers=1,
        ),
        **_settings(module, graph, config, samples),
    )


def _settings(module: Any, graph: Any, config: Nncf, samples: list[Sample]) -> dict[str, Any]:
    transformer = chosen(config.model_type) == NncfModelType.TRANSFORMER
    return {
        "preset": module.QuantizationPreset(chosen(config.preset).lower()),
        "model_type": module.ModelType.TRANSFORMER if transformer else None,
        "fast_bias_correction": chosen(config.fast_bias_correction),
        "ignored_scope": module.IgnoredScope(types=_ignored(graph, chosen(config.operator_scope)), validate=False),
        "subset_size": len(samples),
        "target_device": module.TargetDevice.CPU,
    }


def _ignored(graph: Any, scope: OperatorScope) -> list[str]:
    """The types of operators that stay as they are."""
    present = {str(operator.get_type_name()) for operator in graph.get_ops()}
    return sorted(present - SCOPES[scope]) if scope in SCOPES else []


def _advanced(module: Any) -> Any:
    fix = module.OverflowFix
    return module.AdvancedQuantizationParameters(
        overflow_fix=fix.ENABLE if saturates(hardware().flags) else fix.DISABLE
    )


def _kept(made: Model, config: Nncf, bench: Bench) -> str:
    """What the guard achieved, in words. NNCF returns its last attempt without any, whatever that loses."""
    drop = bench.drop(engine(EngineName.OPENVINO).load(made, EngineOptions(bench.threads)))
    if not keeps(drop, parse_percent(config.max_drop or "")):
        raise NotApplicable(
            f"nncf: {show_percent(drop)} is still lost after {config.max_evaluations} evaluations, more than maxDrop "
            f"{config.max_drop}: allow more of either"
        )
    return f"{show_percent(drop)} lost with {len(bench.float_layers)} layers left in floating point"


def _quantized(graph: Any) -> Counter[str]:
    """How many operators of each type read integers."""
    return Counter(str(operator.get_type_name()) for operator in graph.get_ordered_ops() if _reads_integers(operator))


def _float_layers(graph: Any, scope: OperatorScope) -> list[str]:
    """The names of convolutions and matrix products in scope that do not."""
    types = SCOPES.get(scope, CONVOLUTIONS | PRODUCTS)
    layers = (operator for operator in graph.get_ordered_ops() if operator.get_type_name() in types)
    return [str(layer.get_friendly_name()) for layer in layers if not _reads_integers(layer)]


def _reads_integers(operator: Any) -> bool:
    sources = (port.get_source_output().get_node() for port in operator.inputs())
    return any(source.get_type_name() == "FakeQuantize" for source in sources)


def _note(counts: Counter[str], samples: int) -> str:
    bits = "; weights of 7 bits, as this CPU has no VNNI" if saturates(hardware().flags) else ""
    return f"{counted(counts)} in INT8, ranges from {samples} samples{bits}"
