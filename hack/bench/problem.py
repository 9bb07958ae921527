"""What every tool is given, alike: a model, its splits, one gate, one number of threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from trimtab.api.metrics import Metrics
from trimtab.api.model import EngineName, Metric, ModelFormat
from trimtab.api.status import BFLOAT16
from trimtab.api.techniques import FloatPrecision
from trimtab_jobs.data import Splits
from trimtab_jobs.engines import EngineOptions, Session, engine
from trimtab_jobs.evaluate import Judge
from trimtab_jobs.hardware import hardware
from trimtab_jobs.metrics import choose
from trimtab_jobs.model import PRECISION, Model

SPLITS = ("calibration", "evaluation", "holdout")


def as_it_comes(model: Model, name: EngineName) -> Model:
    """The model as an engine computes it when told nothing: OpenVINO takes bfloat16 where the CPU has it."""
    if name != EngineName.OPENVINO or BFLOAT16.isdisjoint(hardware().flags):
        return model
    return replace(model, details=model.details | {PRECISION: FloatPrecision.BFLOAT16})


@dataclass(frozen=True)
class Problem:
    """A folder with `model/model.onnx` and a file for each split, and what may be lost of the model's quality."""

    folder: Path
    max_drop: float = 0.01
    threads: int = 1

    @property
    def model(self) -> Model:
        return Model(self.folder / "model", ModelFormat.ONNX)

    @cached_property
    def splits(self) -> Splits:
        return Splits({name: self.folder / f"{name}.npz" for name in SPLITS})

    def load(self, model: Model, name: EngineName = EngineName.ONNXRUNTIME) -> Session:
        return engine(name).load(model, EngineOptions(self.threads))

    @cached_property
    def original(self) -> Session:
        return self.load(self.model)

    @cached_property
    def metric(self) -> Metric:
        """Accuracy where there are labels, else fidelity to the original: what `trimtab` itself would choose."""
        return choose(self.splits.evaluation, self.original.run(next(self.splits.evaluation.batches(1))))

    @cached_property
    def judge(self) -> Judge:
        return Judge([self.metric], Metrics(), lambda: self.original, self.splits)
