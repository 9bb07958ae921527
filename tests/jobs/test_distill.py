"""Distillation of a small network, really trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from networks import PLAIN, Notes, empty, import_network, make_splits, stripes
from trimtab.api.doing import last_told
from trimtab.api.techniques import Distill, IntRange, Prune, Range
from trimtab_jobs import progress
from trimtab_jobs.data import Splits
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.techniques.distill import distill
from trimtab_jobs.techniques.prune import prune
from trimtab_jobs.torch_model import load, save
from trimtab_jobs.train import accuracy, deterministic, labels, predict, train


def config(epochs: int = 3, temperature: str = "4", alpha: str = "0.7", learning_rate: str = "0.003") -> Distill:
    return Distill(
        epochs=IntRange(values=[epochs]),
        temperature=Range(values=[temperature]),
        alpha=Range(values=[alpha]),
        learning_rate=Range(values=[learning_rate]),
    )


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return make_splits(tmp_path_factory.mktemp("data"), train=stripes(512, 0), evaluation=stripes(512, 1))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, splits: Splits) -> Model:
    folder = tmp_path_factory.mktemp("teacher")
    model = import_network(folder)
    module, target = load(model), labels(splits.train)
    with deterministic(seed=0, threads=1):
        train(module, splits.train, lambda s, b: cross_entropy(s, target[b]), epochs=4, learning_rate=0.01)
    return save(module, model, empty(folder / "trained"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, splits: Splits, teacher: Model) -> Model:
    """The teacher, cut to half its channels."""
    bench = Notes().bench(tmp_path_factory.mktemp("student") / "pruned", teacher, splits)
    return prune(teacher, Prune(ratio=Range(values=["0.5"])), bench)


def test_a_pruned_model_recovers_and_says_how_far_it_is(
    tmp_path: Path,
    splits: Splits,
    teacher: Model,
    student: Model,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = Notes()
    monkeypatch.setattr("trimtab_jobs.progress.TOLD_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "trimtab_jobs"):
        progress.begin(2, 3, "distill")
        recovered = distill(student, config(), notes.bench(tmp_path / "out", teacher, splits))
    told = [last_told(message) for message in caplog.messages]
    begun, *epochs = [(doing.step, doing.steps, doing.what.partition(", loss")[0]) for doing in told if doing]
    assert begun == (2, 3, "distill")
    assert epochs == [(2, 3, f"distill: epoch {n} of 3") for n in (1, 2, 3)]
    before, after, best = (accuracy(load(model), splits.evaluation) for model in (student, recovered, teacher))
    assert before < best - 0.2
    assert after > best - 0.03
    assert recovered.size == pytest.approx(student.size, rel=0.01)
    (note,) = notes
    assert note.startswith("3 epochs: loss ")
    assert ", accuracy on the train split " in note


def test_with_alpha_1_the_teacher_teaches_what_no_label_says(tmp_path: Path, teacher: Model, student: Model) -> None:
    content = stripes(512, 0)
    splits = make_splits(tmp_path, train=content | {"labels": np.zeros_like(content["labels"])})
    taught = distill(student, config(alpha="1"), Notes().bench(tmp_path / "out", teacher, splits))
    answers = [predict(load(model), splits.train).argmax(1) for model in (taught, teacher)]
    assert (answers[0] == answers[1]).float().mean() > 0.95


def test_the_seed_decides_every_bit_and_nothing_outside_changes(
    tmp_path: Path, splits: Splits, teacher: Model, student: Model
) -> None:
    def weights(name: str, seed: int) -> bytes:
        settings = config(epochs=1)
        return distill(student, settings, Notes().bench(tmp_path / name, teacher, splits, seed)).weights.read_bytes()

    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = weights("first", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.rand(3)
    assert weights("again", seed=1) == first
    assert weights("other", seed=2) != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(epochs=0), "distill.epochs is 0: it must be at least 1"),
        (config(temperature="0"), "distill.temperature is 0: it must be above 0"),
        (config(alpha="1.5"), "distill.alpha is 1.5: it must be from 0 to 1"),
        (config(learning_rate="-1"), "distill.learningRate is -1: it must be above 0"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, splits: Splits, teacher: Model, settings: Distill, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        distill(teacher, settings, Notes().bench(tmp_path / "out", teacher, splits))


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (
            {"labels": np.full(16, 4)},
            r"data.train: \S+: labels reach from 4 to 4, and the model has 4 classes",
        ),
        ({"labels": None}, r"data.train: \S+train.npz: it has no labels, and training needs them"),
    ],
)
def test_wrong_labels_are_named(tmp_path: Path, teacher: Model, spoilt: dict[str, Any], message: str) -> None:
    content = {name: array for name, array in (stripes(16, 0) | spoilt).items() if array is not None}
    splits = make_splits(tmp_path, train=content)
    with pytest.raises(InvalidInput, match=message):
        distill(teacher, config(), Notes().bench(tmp_path / "out", teacher, splits))


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("nn.Softmax(1)", "answers with probabilities.*leave out its last softmax"),
        ("nn.Flatten(0)", r"\[2048\], not logits"),
    ],
)
def test_only_logits_can_be_softened(tmp_path: Path, splits: Splits, last: str, message: str) -> None:
    model = import_network(tmp_path, PLAIN.replace("nn.Linear(128, 4)", f"nn.Linear(128, 4), {last}"))
    with pytest.raises(NotApplicable, match=message):
        distill(model, config(), Notes().bench(tmp_path / "out", model, splits))
