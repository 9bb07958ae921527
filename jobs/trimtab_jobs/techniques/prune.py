"""Structured pruning: whole channels are removed, so that the model is smaller on every engine, without masks.

A channel cannot be cut from one layer alone: the batch normalization behind it, the next layer's inputs and every
branch that is added to it lose the same one. torch-pruning traces these dependencies (Fang et al., DepGraph,
arXiv:2301.12900) and ranks each group of coupled channels by the magnitude of all its weights together; the lowest
go, the same fraction from every group. Accuracy drops, and is meant to be recovered by a step that trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_pruning

from trimtab.api.techniques import Prune, chosen_number
from trimtab_jobs import torch_model
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.techniques import Bench

ROUND_TO = 8
"""Layers keep a multiple of 8 channels, the block that convolution kernels work on. Of the digits example a ratio of
0.3 would leave 22, 44, 89 and 89 channels, which take ONNX Runtime 0.99 of the time before (float32, AVX2); 24, 48,
88 and 88 take 0.63."""


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int
    """Multiplications with an addition, for one sample."""

    def __str__(self) -> str:
        return f"{self.parameters / 1e3:.1f}k parameters and {self.macs / 1e6:.2f}M MACs"


def prune(model: Model, config: Prune, bench: Bench) -> Model:
    """Remove the fraction `ratio` of the channels of every layer but the ignored ones and those of the output.

    What is left of a layer is rounded to a multiple of 8. Samples of the evaluation split lend their shapes. Raises
    NotApplicable if nothing can be removed.
    """
    ratio = chosen_number(config.ratio)
    if not 0 < ratio < 1:
        raise InvalidInput(f"prune.ratio {ratio:g} is not between 0 and 1: give the fraction of channels to remove")
    module = torch_model.load(model).requires_grad_(True)  # gradients are what the dependencies are traced by
    ignored = _named(module, config.ignored_layers)
    samples = torch_model.to_tensors(module, bench.splits.evaluation.inputs)
    example = [tensor[:2] for tensor in samples.values()]
    shapes, before = _output_shapes(module, example), _cost(module, example)
    try:
        _cut(module, example, ratio, ignored)
        intact = _output_shapes(module, example) == shapes
    except Exception as error:  # torch-pruning's, or that of a forward with channel counts written into it
        raise NotApplicable(f"prune: the module cannot be cut: {type(error).__name__}: {error}") from error
    after = _cost(module, example)
    if not intact:
        raise NotApplicable("prune: cutting this module changes its outputs' shapes")
    if after.parameters == before.parameters:
        raise NotApplicable(
            f"prune: no layer that may lose channels is left with fewer: they keep a multiple of {ROUND_TO}"
        )
    bench.note(f"{before} to {after}")
    return torch_model.save(module, model, bench.out)


def _cut(
    module: torch.nn.Module, example: list[torch.Tensor], ratio: float, ignored: Sequence[torch.nn.Module]
) -> None:
    graph = torch_pruning.DependencyGraph().build_dependency(module, example)
    groups = list(graph.get_all_groups())
    torch_pruning.pruner.BasePruner(
        module,
        example,
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.0,
        pruning_ratio_dict={_root(group): _ratio(graph.get_out_channels(_root(group)), ratio) for group in groups},
        ignored_layers=[*ignored, *(_root(group) for group in groups if _reaches_output(group, graph))],
        # Its defaults are shared by all pruners of the process, and remember their modules.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    ).step()


def _root(group: torch_pruning.Group) -> torch.nn.Module:
    return group[0].dep.target.module


def _ratio(channels: int, ratio: float) -> float:
    """The fraction to remove so that the nearest multiple of 8 is left, at least 8."""
    kept = min(channels, ROUND_TO * max(1, round(channels * (1 - ratio) / ROUND_TO)))
    return 1 - (kept + 0.5) / channels  # half a channel, because torch-pruning truncates what it keeps


def _reaches_output(group: torch_pruning.Group, graph: torch_pruning.DependencyGraph) -> bool:
    """Whether the group's channels are those of an output: they go where nothing follows."""
    return any(graph.is_out_channel_pruning_fn(dep.handler) and not dep.target.outputs for dep, _ in group)


def _named(module: torch.nn.Module, names: Sequence[str]) -> list[torch.nn.Module]:
    modules = dict(module.named_modules())
    for name in names:
        if name not in modules:
            raise InvalidInput(
                f"prune.ignoredLayers: the model has no module {name!r}: its modules are {', '.join(modules)[1:300]}"
            )
    return [modules[name] for name in names]


def _output_shapes(module: torch.nn.Module, example: list[torch.Tensor]) -> list[torch.Size]:
    return [output.shape for output in torch_model.outputs(module, example)]


def _cost(module: torch.nn.Module, example: list[torch.Tensor]) -> Cost:
    macs, parameters = torch_pruning.utils.count_ops_and_params(module, [tensor[:1] for tensor in example])
    return Cost(int(parameters), int(macs))
