"""Olive's search over its own ONNX passes, run by a Python that has olive-ai: `olive_search.py FOLDER MODEL MAX_DROP`.

Olive decides: it prepares the graph, searches static and dynamic quantization over all that its pass calls searchable
(the operators are not among it) with its own TPE, scores each model on the evaluation split, times it, and names the
best that keeps the goal. Its winner is copied to MODEL; where it names none, that is its result. Nothing of this
repository is imported: the environment has only Olive.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from olive.data.component.dataset import BaseDataset
from olive.data.registry import Registry
from olive.workflows import run


@Registry.register_dataset()  # type: ignore[untyped-decorator]
def samples(folder: str, split: str, **_: Any) -> Any:
    """A split as pairs of inputs (a dict) and label."""
    arrays = dict(np.load(Path(folder, f"{split}.npz")))
    labels = arrays.pop("labels", np.zeros(len(next(iter(arrays.values())))))
    return _Samples(arrays, labels)


class _Samples(BaseDataset):  # type: ignore[misc]
    def __init__(self, arrays: dict[str, Any], labels: Any) -> None:
        self.arrays, self.labels = arrays, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        return {name: array[index] for name, array in self.arrays.items()}, self.labels[index]


def quality(model: Any, device: str = "cpu", execution_providers: Any = None, **given: Any) -> dict[str, float]:
    """Accuracy where there are labels, else the mean cosine to the original model's outputs."""
    folder = Path(given["folder"])
    session = model.prepare_session(device=device, execution_providers=["CPUExecutionProvider"])
    arrays = dict(np.load(folder / "evaluation.npz"))
    labels = arrays.pop("labels", None)
    rows = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(len(next(iter(arrays.values()))))]
    if labels is not None:
        right = [session.run(None, row)[0].argmax() == label for row, label in zip(rows, labels, strict=True)]
        return {"quality": float(np.mean(right))}
    import onnxruntime

    original = onnxruntime.InferenceSession(folder / "model/model.onnx", providers=["CPUExecutionProvider"])
    return {"quality": float(np.mean([cosine(session.run(None, row), original.run(None, row)) for row in rows]))}


def cosine(found: list[Any], wanted: list[Any]) -> float:
    a, b = (np.concatenate([np.ravel(output) for output in outputs]).astype(np.float64) for outputs in (found, wanted))
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / max(lengths, 1e-30)


def config(folder: Path, out: Path, max_drop: float) -> dict[str, Any]:
    """The workflow, as Olive's examples write it."""
    script = str(Path(__file__).resolve())

    def data(split: str) -> dict[str, Any]:
        return {
            "name": split,
            "user_script": script,
            "load_dataset_config": {"type": "samples", "params": {"folder": str(folder), "split": split}},
            "dataloader_config": {"params": {"batch_size": 1}},
        }

    scored = {
        "name": "quality",
        "type": "custom",
        "sub_types": [
            {"name": "quality", "priority": 2, "higher_is_better": True, "metric_config": {},
             "goal": {"type": "max-degradation", "value": max_drop}}
        ],
        "user_config": {
            "user_script": script,
            "evaluate_func": "quality",
            "evaluate_func_kwargs": {"folder": str(folder)},
        },
    }  # fmt: skip
    timed = {
        "name": "latency",
        "type": "latency",
        "data_config": "evaluation",
        "sub_types": [{"name": "avg", "priority": 1, "goal": {"type": "percent-min-improvement", "value": 0.1}}],
    }
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(folder / "model/model.onnx")},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [data("calibration"), data("evaluation")],
        "evaluators": {"judge": {"metrics": [timed, scored]}},
        "passes": {
            "preprocess": {"type": "OnnxQuantizationPreprocess"},
            "quantize": {"type": "OnnxQuantization", "data_config": "calibration", "quant_mode": "SEARCHABLE_VALUES",
                         "per_channel": "SEARCHABLE_VALUES", "reduce_range": "SEARCHABLE_VALUES",
                         "activation_type": "SEARCHABLE_VALUES", "precision": "SEARCHABLE_VALUES",
                         "calibrate_method": "SEARCHABLE_VALUES"},
        },
        "search_strategy": {"execution_order": "joint", "sampler": "tpe", "max_samples": 12, "seed": 0},
        "evaluator": "judge",
        "target": "here",
        "host": "here",
        "cache_dir": str(out / "cache"),
        "output_dir": str(out / "olive"),
    }  # fmt: skip


def main(folder: Path, model: Path, max_drop: float) -> None:
    found = run(config(folder.resolve(), model.resolve().parent.with_name("olive"), max_drop))
    winner = found.get_best_candidate()
    if winner is None:
        raise SystemExit("Olive names no model that keeps the goals")
    shutil.copyfile(winner.model_path, model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
