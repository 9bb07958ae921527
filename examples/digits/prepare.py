"""Train the network of model.py on scikit-learn's digits, and write what the jobs need into a folder.

    python examples/digits/prepare.py OUT

Ten seconds on one core; the same files every time on the same machine.
"""

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from model import build
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from trimtab_jobs.data import Split, read_split
from trimtab_jobs.train import accuracy, deterministic, labels, train

SIZES = {"train": 800, "calibration": 100, "evaluation": 400}
"""The rest, 497 images, is the holdout: the more, the closer the claim on accuracy can be made."""


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_splits(out)
    module = trained(read_split("train", out / "train.npz"))
    (out / "model.safetensors").write_bytes(save(module.state_dict()))
    shutil.copyfile(Path(__file__).with_name("model.py"), out / "model.py")
    export(module, out / "model.onnx")
    holdout = read_split("holdout", out / "holdout.npz")
    print(f"{out}/model.safetensors: {accuracy(module, holdout):.1%} right of {len(holdout)} images of the holdout")


def write_splits(out: Path) -> None:
    """Disjoint splits: an image that occurs twice is kept once."""
    pixels, digits = load_digits(return_X_y=True)
    _, unique = np.unique(pixels, axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(unique)
    images = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    for name, rows in zip([*SIZES, "holdout"], np.split(order, np.cumsum([*SIZES.values()])), strict=True):
        np.savez(out / f"{name}.npz", image=images[rows], labels=digits[rows])


def trained(split: Split) -> torch.nn.Module:
    # One thread, so that the sums, and with them the weights, are the same whatever the number of cores.
    with deterministic(seed=0, threads=1):
        module, target = build(), labels(split)
        train(module, split, lambda scores, batch: cross_entropy(scores, target[batch]), epochs=8, learning_rate=3e-3)
    return module


def export(module: torch.nn.Module, path: Path) -> None:
    """As its owner would: any number of images at once, the normalization folded into the convolutions."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says that there is no torchvision
    shapes = ({0: torch.export.Dim("N")},)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    program = torch.onnx.export(
        module, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes, dynamo=True, verbose=False, **names
    )
    program.save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
