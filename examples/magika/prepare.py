"""Make the example's model and data: `prepare.py FOLDER`.

magika (Google, arXiv:2409.13768) tells a file's type from 2,048 of its bytes; the ONNX model is inside its wheel. The
data are real files of this machine, from Python's library, the installed packages and /usr/share, labelled by their
extension where an extension means one type only. So every machine gets a data set of its own, of about the same
difficulty: 94 to 96% of the labels are predicted right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import magika
import numpy as np
from magika.types.seekable import Seekable

MODEL = Path(magika.__file__).parent / "models/standard_v3_3"
ROOTS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/share")
SPLITS = {"calibration": 200, "evaluation": 1000, "holdout": 1000, "traffic": 800}  # traffic is for examples/loop
SEED = 7
# Not .txt (four in five are reStructuredText or lists), not .h, .m or .pl (each is several languages).
LABELS = {
    "c": "c", "cc": "cpp", "cmake": "cmake", "cpp": "cpp", "css": "css", "csv": "csv", "gif": "gif", "gz": "gzip",
    "html": "html", "js": "javascript", "json": "json", "md": "markdown", "npy": "npy", "onnx": "onnx", "png": "png",
    "py": "python", "pyc": "pythonbytecode", "pyi": "python", "rst": "rst", "sh": "shell", "so": "elf", "sql": "sql",
    "svg": "svg", "toml": "toml", "ttf": "ttf", "xml": "xml", "yaml": "yaml", "yml": "yaml",
}  # fmt: skip
Sample = tuple[tuple[int, ...], int]


def main(folder: Path, judged: int) -> None:
    sizes = SPLITS | {"evaluation": judged, "holdout": judged}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MODEL / "model.onnx", folder / "model.onnx")
    for name, part in split(collect(sum(sizes.values())), sizes).items():
        features, labels = zip(*part, strict=True)
        np.savez_compressed(folder / f"{name}.npz", bytes=np.array(features, np.int32), labels=np.array(labels))
        print(f"{folder / name}.npz: {len(part)} files of {len(set(labels))} types")


def collect(count: int) -> list[Sample]:
    """At most `count` samples, no two with the same features, dealt from the types in turn while they last."""
    config = json.loads((MODEL / "config.min.json").read_text())
    index = {label: position for position, label in enumerate(config["target_labels_space"])}
    seen: set[tuple[int, ...]] = set()
    hands = [distinct(paths, index[label], config, seen) for label, paths in sorted(files_by_label().items())]
    samples: list[Sample] = []
    while hands and len(samples) < count:
        dealt = [(hand, next(hand, None)) for hand in hands]
        hands = [hand for hand, sample in dealt if sample]
        samples += [sample for _, sample in dealt if sample]
    return samples[:count]


def split(samples: list[Sample], sizes: dict[str, int]) -> dict[str, list[Sample]]:
    """Disjoint parts in the proportions of `sizes`, each with about the same mix of types."""
    shuffled = random.Random(SEED).sample(samples, len(samples))
    parts, start = {}, 0
    for name, size in sizes.items():
        end = start + size * len(samples) // sum(sizes.values())
        parts[name], start = shuffled[start:end], end
    return parts


def files_by_label() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for folder, _, names in (entry for root in ROOTS for entry in os.walk(root)):
        for name in names:
            if label := LABELS.get(name.rpartition(".")[2]):
                found[label].append(Path(folder, name))
    return found


def distinct(paths: list[Path], label: int, config: dict[str, Any], seen: set[tuple[int, ...]]) -> Iterator[Sample]:
    """Samples of the files in a random order that is the same each time, without those `seen` under any label."""
    for path in random.Random(SEED).sample(sorted(paths), len(paths)):
        features = extract(path, config)
        if features is not None and features not in seen:
            seen.add(features)
            yield features, label


def extract(path: Path, config: dict[str, Any]) -> tuple[int, ...] | None:
    """The model's input: the first and last 1,024 bytes, as magika cuts them. None where magika uses no model."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size < config["min_file_size_for_dl"]:
        return None
    names = ("beg_size", "mid_size", "end_size", "padding_token", "block_size", "use_inputs_at_offsets")
    with path.open("rb") as file:
        features = magika.Magika._extract_features_from_seekable(
            Seekable(file), **{name: config[name] for name in names}
        )
    return (*features.beg, *features.end)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--judged", type=int, default=1000, help="samples in each of evaluation and holdout")
    given = parser.parse_args()
    main(given.folder, given.judged)
