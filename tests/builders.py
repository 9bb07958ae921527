"""Fluent enough ways to make the objects of the contract, and one simulated world to run decisions in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from trimtab.admission import admit
from trimtab.api.job import OptimizationJob
from trimtab.api.model import EngineName, Metric
from trimtab.api.runtime import OptimizationRuntime
from trimtab.api.status import Claim, Inspection, Interval, OptimizationJobStatus, Verdict
from trimtab.api.work import ErrorKind, Measurement, Report, Stage, Task, Timing, WorkError
from trimtab.decisions import Decision, Event, Observed, ObservedWork, Work, WorkState
from trimtab.harvest import Outcomes
from trimtab.reconcile import reconcile

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job_dict(**spec: Any) -> dict[str, Any]:
    """An OptimizationJob as a person writes it: two trials of static INT8. Keyword arguments replace spec fields."""
    given: dict[str, Any] = {
        "model": {"uri": "pvc://models/m.onnx", "format": "ONNX"},
        "data": {
            "calibration": {"uri": "pvc://data/calibration.npz"},
            "evaluation": {"uri": "pvc://data/evaluation.npz"},
            "holdout": {"uri": "pvc://data/holdout.npz"},
        },
        "constraints": [{"metric": "accuracy", "maxDrop": "1%"}],
        "techniques": [{"quantize": {"operatorScope": ["All", "Compute"]}}],
        "publish": {"uri": "pvc://published"},
    }
    return {
        "apiVersion": "trimtab.dev/v1alpha1",
        "kind": "OptimizationJob",
        "metadata": {"name": "m", "namespace": "ml", "uid": "0123456789ab"},
        "spec": {name: value for name, value in (given | spec).items() if value is not None},
    }


def make_job(**spec: Any) -> OptimizationJob:
    return OptimizationJob.model_validate(job_dict(**spec))


def make_runtime(**spec: Any) -> OptimizationRuntime:
    return OptimizationRuntime.model_validate(
        {
            "metadata": {"name": "default", "namespace": "ml"},
            "spec": {"image": "jobs:dev", "store": {"uri": "pvc://store"}} | spec,
        }
    )


def interval(estimate: float, spread: float = 0.02) -> Interval:
    return Interval(estimate=f"{estimate:.4g}", low=f"{estimate - spread:.4g}", high=f"{estimate + spread:.4g}")


@dataclass(frozen=True)
class Quality:
    """What a simulated model measures."""

    accuracy: float = 0.95
    ratio: float = 1.0
    size: int = 1000


BASE_SECONDS = 0.002
Truth = Callable[[Mapping[str, str], EngineName], Quality]


def scopes(settings: Mapping[str, str], engine: EngineName = EngineName.ONNXRUNTIME) -> Quality:
    """Slice A in numbers: quantizing all operators ruins the model, quantizing the compute operators is free."""
    return {"All": Quality(0.2, 0.6, 300), "Compute": Quality(0.951, 0.67, 320)}.get(
        settings.get("quantize.operatorScope", ""), Quality()
    )


def report_for(task: Task, truth: Truth, trials: Mapping[int, Mapping[str, str]] | None = None) -> Report:
    """The report a healthy pod would leave. `trials` maps earlier trials to their settings, for the playoff."""
    settings = {0: {}, **(trials or {})}
    made = {
        Stage.INSPECT: lambda: Report(
            stage=Stage.INSPECT,
            artifact="sha256:base",
            inspection=Inspection(
                model_digest="sha256:source",
                data_digests=dict.fromkeys(task.data.named(), "sha256:h"),
                operators={"Conv": 9, "Gemm": 1},
            ),
            measurements=[_measurement(truth({}, engine), engine) for engine in task.target.engines],
            seconds=1,
        ),
        Stage.TRIAL: lambda: Report(
            stage=Stage.TRIAL,
            trial=task.trial,
            artifact=f"sha256:trial{task.trial}",
            measurements=[_measurement(truth(task.settings, engine), engine) for engine in task.target.engines],
            seconds=2,
        ),
        Stage.PLAYOFF: lambda: Report(
            stage=Stage.PLAYOFF,
            timings=[_timing(f.trial, f.engine, truth(settings[f.trial], f.engine)) for f in task.finalists],
            control=interval(1.0),
            seconds=3,
        ),
        Stage.PUBLISH: lambda: Report(
            stage=Stage.PUBLISH,
            artifact=task.winner.artifact if task.winner else "",
            claim=Claim(verdict=Verdict.HOLDS, samples=1000, baseline="0.95", winner="0.95"),
            published=f"{task.publish}/winner" if task.publish else "",
            seconds=1,
        ),
    }
    return made[task.stage]()


def _measurement(quality: Quality, engine: EngineName) -> Measurement:
    seconds = BASE_SECONDS * quality.ratio
    metrics = {Metric.ACCURACY: quality.accuracy, **_latencies(seconds), Metric.SIZE: quality.size}
    return Measurement(engine=engine, metrics=metrics)


def _latencies(seconds: float) -> dict[Metric, float]:
    return {Metric.LATENCY_P50: seconds, Metric.LATENCY_P95: seconds * 1.2}


def _timing(trial: int, engine: EngineName, quality: Quality) -> Timing:
    seconds = BASE_SECONDS * quality.ratio
    return Timing(trial=trial, engine=engine, ratio=interval(quality.ratio), metrics=_latencies(seconds))


def broken(stage: Stage, kind: ErrorKind, message: str, trial: int | None = None) -> Report:
    return Report(stage=stage, trial=trial, error=WorkError(kind=kind, reason="InvalidInput", message=message))


@dataclass
class World:
    """Carries decisions out at once: every pod that is started succeeds, unless `sabotage` says otherwise.

    It keeps what a cluster keeps (the object's status, the Jobs) and counts what was started.
    """

    job: OptimizationJob
    truth: Truth = scopes
    runtime: OptimizationRuntime | None = field(default_factory=make_runtime)
    sabotage: Callable[[Work], ObservedWork | None] = lambda work: None
    works: dict[str, ObservedWork] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    now: datetime = NOW

    def step(self) -> Decision:
        """One reconcile, carried out; pods that were started end before the next."""
        runtimes = [self.runtime] if self.runtime else []
        observed = Observed(admit(self.job, runtimes, ()), tuple(self.works.values()))
        decision = reconcile(self.job, observed, self.now)
        assert reconcile(self.job, replace(observed, works=self.looked_at()), self.now) == decision
        for work in decision.create:
            if work.name not in self.works:
                self.started.append(work.name)
                self.works[work.name] = self.sabotage(work) or self.succeed(work)
        for name in decision.delete:
            self.works.pop(name, None)
        self.write(decision)
        return decision

    def looked_at(self) -> tuple[ObservedWork, ...]:
        """What an operator observes: no work that has ended and whose outcome is in the status."""
        known = Outcomes(self.job.status)
        places = [(seen, (seen.work.task.stage, seen.work.task.trial)) for seen in self.works.values()]
        return tuple(seen for seen, place in places if seen.state == WorkState.ACTIVE or place not in known)

    def write(self, decision: Decision) -> None:
        """Write the status as the API server would store it, and tell the events."""
        stored = OptimizationJobStatus.model_validate(decision.status.wire())
        self.job = self.job.model_copy(update={"status": stored})
        self.events.extend(decision.events)

    def run(self, limit: int = 50) -> OptimizationJobStatus:
        """Reconcile until nothing changes."""
        for _ in range(limit):
            before = self.job.status
            if not self.step().create and self.job.status == before:
                return self.job.status
        raise AssertionError(f"not settled after {limit} reconciles: {self.job.status.state}")

    def succeed(self, work: Work) -> ObservedWork:
        trials = {seen.work.task.trial or 0: seen.work.task.settings for seen in self.works.values()}
        report = Report.model_validate_json(report_for(work.task, self.truth, trials).compact())
        return ObservedWork(work, WorkState.SUCCEEDED, report)

    def condition(self, kind: str) -> tuple[str, str, str]:
        found = next(c for c in self.job.status.conditions if c.type == kind)
        return found.status, found.reason, found.message


def lost(work: Work, message: str = "OOMKilled") -> ObservedWork:
    return ObservedWork(work, WorkState.FAILED, None, message)
