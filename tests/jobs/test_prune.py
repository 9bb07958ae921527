"""Channel pruning of networks whose layers depend on each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from networks import HEAD, PLAIN, RESIDUAL, Notes, import_network, make_splits, stripes
from trimtab.api.techniques import Prune, Range
from trimtab_jobs.data import Splits
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.techniques.prune import prune
from trimtab_jobs.torch_model import load

IMAGE = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
CONVOLUTIONAL = HEAD + (
    "def build():\n"
    "    return nn.Sequential(convolution(1, 16), convolution(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
)
FROZEN = PLAIN.replace("return nn.Sequential(conv", "return frozen(conv") + (
    "def frozen(*layers):\n    return nn.Sequential(*layers).requires_grad_(False)\n"
)
CONCATENATED = HEAD + (
    "class Net(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.left, self.right = convolution(1, 32), convolution(1, 32)\n"
    "        self.head = nn.Conv2d(64, 4, 1)\n"
    "    def forward(self, image):\n"
    "        return self.head(torch.cat([self.left(image), self.right(image)], 1)).mean((2, 3))\n"
    "def build():\n"
    "    return Net()\n"
)
FIXED = HEAD + (
    "class Net(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.body, self.head = convolution(1, 16), nn.Linear(1024, 4)\n"
    "    def forward(self, image):\n"
    "        return self.head(self.body(image).view(-1, 16 * 64))\n"
    "def build():\n"
    "    return Net()\n"
)


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    return make_splits(tmp_path, evaluation=stripes(4, seed=0))


def config(ratio: str = "0.5", *ignored: str) -> Prune:
    return Prune(ratio=Range(values=[ratio]), ignored_layers=list(ignored))


def cut(folder: Path, splits: Splits, code: str, settings: Prune) -> tuple[Model, Notes]:
    notes, model = Notes(), import_network(folder, code)
    return prune(model, settings, notes.bench(folder / "pruned", model, splits)), notes


def widths(module: torch.nn.Module) -> dict[str, int]:
    layers = {name: layer for name, layer in module.named_modules() if hasattr(layer, "weight")}
    return {name: len(layer.weight) for name, layer in layers.items() if not isinstance(layer, torch.nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("code", "ratio", "left"),
    [
        (PLAIN, "0.5", {"0.0": 8, "1.0": 16, "3": 4}),
        (PLAIN, "0.3", {"0.0": 8, "1.0": 24, "3": 4}),
        (PLAIN, "0.9", {"0.0": 8, "1.0": 8, "3": 4}),
        (FROZEN, "0.5", {"0.0": 8, "1.0": 16, "3": 4}),
        # The sum and the depthwise layer couple three layers' channels.
        (RESIDUAL, "0.5", {"stem.0": 16, "inner.0": 16, "depthwise.0": 16, "head": 4}),
        (CONCATENATED, "0.5", {"left.0": 16, "right.0": 16, "head": 4}),
        # The second layer's channels are the output's.
        (CONVOLUTIONAL, "0.5", {"0.0": 8, "1.0": 16}),
    ],
)
def test_layers_lose_channels_to_a_multiple_of_8_and_outputs_none(
    tmp_path: Path, splits: Splits, code: str, ratio: str, left: dict[str, int]
) -> None:
    pruned, _ = cut(tmp_path, splits, code, config(ratio))
    module = load(pruned)
    assert widths(module) == left
    assert module(IMAGE).shape == (3, list(left.values())[-1])


def test_the_note_says_what_it_brought(tmp_path: Path, splits: Splits) -> None:
    _, notes = cut(tmp_path, splits, PLAIN, config())
    assert notes == ["5.4k parameters and 0.32M MACs to 1.5k parameters and 0.08M MACs"]


def test_ignored_layers_keep_their_channels(tmp_path: Path, splits: Splits) -> None:
    pruned, _ = cut(tmp_path, splits, PLAIN, config("0.5", "0"))
    assert widths(load(pruned)) == {"0.0": 16, "1.0": 16, "3": 4}


def test_a_pruned_model_can_be_pruned_again(tmp_path: Path, splits: Splits) -> None:
    once, notes = cut(tmp_path, splits, PLAIN, config("0.25"))
    twice = prune(once, config("0.5"), notes.bench(tmp_path / "twice", once, splits))
    assert widths(load(once)) == {"0.0": 16, "1.0": 24, "3": 4}
    assert widths(load(twice)) == {"0.0": 8, "1.0": 16, "3": 4}


def test_the_given_model_is_unchanged_and_the_same_cut_gives_the_same_bytes(tmp_path: Path, splits: Splits) -> None:
    model, notes = import_network(tmp_path, RESIDUAL), Notes()
    before = model.weights.read_bytes()
    first, second = (prune(model, config(), notes.bench(tmp_path / name, model, splits)) for name in ("a", "b"))
    assert model.weights.read_bytes() == before
    assert first.weights.read_bytes() == second.weights.read_bytes()
    assert first.details == second.details


def test_a_fresh_process_without_the_pruning_library_loads_a_pruned_model(tmp_path: Path, splits: Splits) -> None:
    pruned, _ = cut(tmp_path, splits, RESIDUAL, config())
    program = (
        "import sys, json, pathlib, torch\n"
        "sys.modules['torch_pruning'] = None\n"
        "from trimtab_jobs import model, torch_model\n"
        "module = torch_model.load(model.open_model(pathlib.Path(sys.argv[1])))\n"
        "image = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))\n"
        "with torch.no_grad(): print(json.dumps(module(image).tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(pruned.folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), load(pruned)(IMAGE))


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        (PLAIN, config("0.1"), "no layer that may lose channels is left with fewer: they keep a multiple of 8"),
        (PLAIN, config("0.5", "0", "1"), "no layer that may lose channels"),
        (FIXED, config(), "the module cannot be cut: RuntimeError: "),
    ],
)
def test_where_nothing_can_be_cut_the_trial_is_skipped(
    tmp_path: Path, splits: Splits, code: str, settings: Prune, message: str
) -> None:
    with pytest.raises(NotApplicable, match=f"^prune: {message}"):
        cut(tmp_path, splits, code, settings)
    assert list((tmp_path / "pruned").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("0"), "prune.ratio 0 is not between 0 and 1"),
        (config("1.5"), "prune.ratio 1.5 is not between 0 and 1"),
        (config("0.5", "stem", "tail"), "prune.ignoredLayers: the model has no module 'tail': its modules are stem, "),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, splits: Splits, settings: Prune, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        cut(tmp_path, splits, RESIDUAL, settings)
