"""A PyTorch model with a Task that takes it through every technique: prune, distill, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bad_inputs import CLASSES, FEATURES, make_samples, sound_spec

CODE = f"""
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear({FEATURES}, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, {CLASSES}),
    )
"""
STEPS = [
    {"prune": {"granularity": ["Channel"], "ratio": {"values": ["0.5"]}}},
    {
        "distill": {
            "epochs": {"values": [2]},
            "temperature": {"values": ["4"]},
            "alpha": {"values": ["0.7"]},
            "learningRate": {"values": ["0.01"]},
        }
    },
    {
        "quantize": {
            "precision": ["Int8"],
            "method": ["Static"],
            "operatorScope": ["Compute"],
            "perChannel": [True],
            "calibrateMethod": ["MinMax"],
        }
    },
]


def write_chain(inputs: Path) -> dict[str, Any]:
    """Write the model and a train split beside the others; the fields of the Task."""
    from safetensors.torch import save_file

    (inputs / "net.py").write_text(CODE)
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    save_file(scope["build"]().state_dict(), inputs / "net.safetensors")
    np.savez(inputs / "train.npz", **make_samples(20))
    return {
        "model": {
            "uri": "pvc://inputs/net.safetensors",
            "format": "PyTorch",
            "factory": "net:build",
            "code": "pvc://inputs/net.py",
        },
        "data": sound_spec()["data"] | {"train": {"uri": "pvc://inputs/train.npz"}},
        "steps": STEPS,
    }
