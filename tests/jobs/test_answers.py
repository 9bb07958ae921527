"""What the original answered is run once and read back as it was, or run again where it cannot be kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trimtab_jobs import answers
from trimtab_jobs.answers import Answers
from trimtab_jobs.data import Array, Split

SAMPLES = 9
Answer = Callable[[Array], list[Array]]


class Model:
    """A session that counts the samples it is run on."""

    size = 0

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.ran = 0

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        self.ran += len(inputs["x"])
        return self.answer(inputs["x"])


def two_outputs(x: Array) -> list[Array]:
    return [x @ np.ones((3, 2), np.float32), x.argmax(axis=1)]


def steps_first(x: Array) -> list[Array]:
    """One sample at a time, its batch not on the first axis."""
    return [np.repeat(x[None], 5, axis=0), np.float32(x.sum()).reshape(())]


def as_many_as_there_are(x: Array) -> list[Array]:
    """Shapes that follow from the sample."""
    return [np.flatnonzero(x[0] > 0)[None].astype(np.float32)]


def words(x: Array) -> list[Array]:
    return [np.array([[str(row.argmax())] for row in x], dtype=object)]


def split() -> Split:
    return Split("evaluation", {"x": np.random.default_rng(5).normal(size=(SAMPLES, 3)).astype(np.float32)}, None)


def all_of(remembered: Answers, size: int) -> list[list[Array]]:
    starts = range(0, SAMPLES, size)
    return [remembered.to(inputs, start) for start, inputs in zip(starts, split().batches(size), strict=True)]


def same(one: list[list[Array]], other: list[list[Array]]) -> bool:
    pairs = [pair for batches in zip(one, other, strict=True) for pair in zip(*batches, strict=True)]
    return all(a.dtype == b.dtype and a.shape == b.shape and (a == b).all() for a, b in pairs)


@pytest.mark.parametrize(
    ("answer", "first", "sizes"),
    [
        (two_outputs, 4, (4, 1, 9, 2)),
        (two_outputs, 1, (1, 4)),
        (steps_first, 1, (1, 1)),
    ],
    ids=["in batches", "one by one, then in batches", "no batches at all"],
)
def test_a_sample_is_run_once(answer: Answer, first: int, sizes: tuple[int, ...]) -> None:
    model = Model(answer)
    remembered = Answers(model, split())
    all_of(remembered, first)
    for size in sizes:
        plain = [answer(inputs["x"]) for inputs in split().batches(size)]
        assert same(all_of(remembered, size), plain)
    assert model.ran == SAMPLES


@pytest.mark.parametrize(
    ("answer", "limit"),
    [(as_many_as_there_are, answers.LIMIT), (words, answers.LIMIT), (two_outputs, 9 * 16 - 1)],
    ids=["shapes that follow from the sample", "text", "more than may be kept"],
)
def test_what_cannot_be_kept_is_run_again(answer: Answer, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIMIT", limit)
    model = Model(answer)
    remembered = Answers(model, split())
    plain = [answer(inputs["x"]) for inputs in split().batches(1)]
    assert same(all_of(remembered, 1), plain)
    assert same(all_of(remembered, 1), plain)
    assert model.ran > SAMPLES


def test_a_pass_that_was_broken_off_is_taken_up() -> None:
    model = Model(two_outputs)
    remembered = Answers(model, split())
    remembered.to({"x": split().inputs["x"][:4]}, 0)
    plain = [two_outputs(inputs["x"]) for inputs in split().batches(2)]
    assert same(all_of(remembered, 2), plain)
    assert same(all_of(remembered, 2), plain)
    assert model.ran == SAMPLES


def test_without_room_on_the_disk_it_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answers, "TemporaryFile", full)
    model = Model(two_outputs)
    remembered = Answers(model, split())
    plain = [two_outputs(inputs["x"]) for inputs in split().batches(4)]
    assert same(all_of(remembered, 4), plain)
    assert same(all_of(remembered, 4), plain)
    assert model.ran == 2 * SAMPLES
