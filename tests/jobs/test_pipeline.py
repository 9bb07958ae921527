"""What the cache takes for the same step and what not, on the real techniques."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from bad_inputs import make_model
from trimtab.api.model import EngineName, ModelFormat
from trimtab.api.techniques import Step
from trimtab.api.work import Report, Task
from trimtab_jobs import pipeline
from trimtab_jobs.desk import Desk
from trimtab_jobs.engines import EngineOptions, engine
from trimtab_jobs.errors import NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.pipeline import Context, Skipped, _take, run_steps
from trimtab_jobs.ranks import Order
from trimtab_jobs.store import Store
from versions import previous

from .chain import STEPS, write_chain
from .conftest import Lab

Succeed = Callable[[Task], Report]
QUANTIZE = STEPS[-1]["quantize"]


@pytest.fixture
def context(lab: Lab) -> Context:
    return Desk(lab.task("Trial"), Store(lab.folder("store"))).context


def quantize(**settings: Any) -> list[Step]:
    return [Step.model_validate({"quantize": QUANTIZE | settings})]


def test_no_steps_change_nothing(context: Context) -> None:
    assert run_steps(context.original, [], context) == (context.original, [])


def test_the_second_time_is_from_the_cache(context: Context) -> None:
    made, (first,) = run_steps(context.original, quantize(), context)
    again, (second,) = run_steps(context.original, quantize(), context)
    assert made == again == first.artifact == second.artifact != context.original
    assert (first.cached, second.cached) == (False, True)
    assert first.note == second.note != ""


def test_a_step_is_told_as_it_begins_and_as_it_ends(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "trimtab_jobs"):
        run_steps(context.original, quantize(), context)
    began, ended = caplog.messages
    assert began == "progress: step 1 of 2, quantize"
    assert ended.startswith("quantize: ")


def test_two_settings_are_two_models(context: Context) -> None:
    static, _ = run_steps(context.original, quantize(), context)
    dynamic, (step,) = run_steps(context.original, quantize(method=["Dynamic"]), context)
    assert not step.cached
    assert static != dynamic


CHANGES = {
    "seed": {"seed": 8},
    "calibration": {"data": {"calibration": "sha256:other"}},
    "original": {"original": "sha256:other"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_a_step_depends_on_is_in_its_key(context: Context, change: dict[str, Any]) -> None:
    other = dataclasses.replace(context, **change)
    assert other.key("sha256:parent", "quantize", {}) != context.key("sha256:parent", "quantize", {})


def test_what_is_done_to_which_model_by_which_code_is_in_its_key(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, object]] = [
        ("sha256:parent", "quantize", {}),
        ("sha256:other", "quantize", {}),
        ("sha256:parent", "nncf", {}),
        ("sha256:parent", "quantize", {"perChannel": [False]}),
    ]
    keys = {context.key(*one) for one in asked}
    monkeypatch.setattr(pipeline, "_code", lambda: "another build's")
    assert len(keys | {context.key(*one) for one in asked}) == 2 * len(asked)


@pytest.mark.parametrize("field", ["flags", "versions"])
def test_another_machine_does_not_use_our_models(context: Context, field: str) -> None:
    machine = context.hardware.model_copy(update={field: type(getattr(context.hardware, field))()})
    other = dataclasses.replace(context, hardware=machine)
    assert other.key("sha256:parent", "quantize", {}) != context.key("sha256:parent", "quantize", {})


@dataclasses.dataclass
class Trained:
    """So many processes, which change nothing."""

    size: int
    model: Model
    orders: list[Order] = dataclasses.field(default_factory=list)

    def train(self, order: Order, _out: Path) -> tuple[Model, str, list[str]]:
        self.orders.append(order)
        return self.model, f"by {self.size}", []


def test_ranks_take_what_trains_and_their_number_is_in_the_key(context: Context) -> None:
    steps = [Step.model_validate(step) for step in STEPS]

    def take(number: int, size: int) -> tuple[str, bool, list[int]]:
        ranks: Any = Trained(size, context.store.model(context.original))
        on = dataclasses.replace(context, ranks=ranks)
        taken, cached = _take(context.original, steps[number], number, on)
        return taken.note, cached, [order.number for order in ranks.orders]

    assert take(1, 2) == ("by 2", False, [1])
    assert take(1, 4) == ("by 4", False, [1])
    assert take(1, 2) == ("by 2", True, [])
    note, cached, orders = take(2, 2)
    assert (cached, orders) == (False, [])
    assert not note.startswith("by")
    assert _take(context.original, steps[2], 2, context)[1]


def test_data_that_no_step_reads_does_not_matter(context: Context) -> None:
    other = dataclasses.replace(context, data=context.data | {"evaluation": "sha256:other", "holdout": "sha256:other"})
    assert other.key("sha256:parent", "quantize", {}) == context.key("sha256:parent", "quantize", {})


def test_what_a_guard_depends_on_is_in_its_key(context: Context) -> None:
    others = (
        dataclasses.replace(context, data=context.data | {"evaluation": "sha256:other"}),
        dataclasses.replace(context, quality=["auroc"]),
    )
    assert len({one.key("sha256:parent", "quantize", {}, guards=True) for one in (context, *others)}) == 3
    assert len({one.key("sha256:parent", "quantize", {}) for one in (context, *others)}) == 1


@pytest.mark.parametrize(("step", "cached"), [({"castFloat": {"scope": ["All"]}}, False), (STEPS[-1], True)])
def test_only_a_step_that_looks_at_evaluation_is_made_anew_for_another(
    context: Context, step: dict[str, Any], cached: bool
) -> None:
    run_steps(context.original, [Step.model_validate(step)], context)
    other = dataclasses.replace(context, data=context.data | {"evaluation": "sha256:other"})
    _, (report,) = run_steps(context.original, [Step.model_validate(step)], other)
    assert report.cached == cached


def test_a_drop_is_measured_against_the_original(context: Context, lab: Lab) -> None:
    session = engine(EngineName.ONNXRUNTIME).load(Model(lab.folder("inputs"), ModelFormat.ONNX), EngineOptions())
    assert context.drop(session) == 0
    worse = Model(lab.root, ModelFormat.ONNX)
    onnx.save(make_model(activation="Tanh"), worse.file)
    assert context.drop(engine(EngineName.ONNXRUNTIME).load(worse, EngineOptions())) > 0.01


def test_no_way_back_from_onnx(context: Context) -> None:
    steps = [*quantize(), Step.model_validate(STEPS[0])]
    with pytest.raises(NotApplicable, match="a step needs a PyTorch model and gets ONNX"):
        run_steps(context.original, steps, context)


def test_a_skipped_trial_says_why(lab: Lab, succeed: Succeed) -> None:
    report = succeed(lab.task("Trial", trial=2, steps=[STEPS[0]]))
    assert "PyTorch" in report.skipped
    assert (report.trial, report.artifact, report.error) == (2, "", None)


def test_a_skipped_trial_tells_what_it_took_to_find_out(context: Context) -> None:
    with pytest.raises(Skipped) as skipped:
        run_steps(context.original, [*quantize(), Step.model_validate(STEPS[0])], context)
    first, last = skipped.value.steps
    assert (first.technique, last.technique, last.artifact) == ("quantize", "prune", "")
    assert last.seconds > 0


def test_a_chain_over_two_formats(lab: Lab, succeed: Succeed) -> None:
    chain = write_chain(lab.folder("inputs"))
    inspected = succeed(lab.task("Inspect", **chain))
    report = succeed(lab.task("Trial", trial=1, **chain))
    assert [step.technique for step in report.steps] == ["prune", "distill", "quantize"]
    store = Store(lab.folder("store"))
    assert [store.model(s.artifact).format for s in report.steps] == [ModelFormat.PYTORCH] * 2 + [ModelFormat.ONNX]
    assert report.artifact == report.steps[-1].artifact
    assert store.model(report.artifact).size < store.model(inspected.artifact).size
    shorter = succeed(lab.task("Trial", trial=2, **(chain | {"steps": STEPS[:2]})))
    assert [step.cached for step in shorter.steps] == [True, True]
    assert store.model(shorter.artifact).format == ModelFormat.ONNX


def test_nothing_is_left_of_the_work(lab: Lab, succeed: Succeed, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = lab.root / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    succeed(lab.task("Trial", trial=1, steps=[STEPS[-1]]))
    assert list(_files(scratch)) == []


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_a_step_that_another_version_took_is_taken_anew(
    lab: Lab, succeed: Succeed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its code may make another model of it. Both are in the store afterwards."""
    task = lab.task("Trial", trial=1, steps=[STEPS[-1]])
    older = dataclasses.replace(lab, code=previous(tmp_path_factory.mktemp("previous")).code)
    before = older.run(task).report
    assert before
    after = succeed(task)
    assert [step.cached for step in (*before.steps, *after.steps)] == [False, False]
    store = Store(lab.folder("store"))
    assert store.has(before.artifact)
    assert store.has(after.artifact)
