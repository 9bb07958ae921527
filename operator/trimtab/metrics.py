"""What Prometheus sees of the operator.

Gauges about objects are counted at scrape time from the view that decisions are made on, so a series goes with the
last object behind it and nothing has to be cleaned up. Labels are bounded: namespaces, states, verbs; never an
object's name. What is counted as it happens has no namespace, for that may be deleted.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trimtab.api.doing import Doing
from trimtab.api.status import Outcome, TrialState
from trimtab.cluster.records import JobRecord
from trimtab.errors import Waits
from trimtab.snapshot import Snapshot

Jobs = Callable[[], Iterable[Snapshot]]
Doings = Callable[[str], Doing | None]
"""What the pod of the Job with this UID says."""
Works = Callable[[], Iterable[JobRecord]]

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Metrics:
    """The operator's registry; nothing is registered globally."""

    def __init__(self) -> None:
        # It would be a second series for every counter, of no use to us.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.calls = Counter(
            "trimtab_api_requests",
            "Answers of the Kubernetes API; code 0 is none.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.reconciles = Histogram(
            "trimtab_reconcile_duration_seconds",
            "One turn of an object: observing, deciding, carrying out.",
            ["kind"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.failures = Counter(
            "trimtab_reconcile_failures", "Turns that were put back into the queue.", ["kind"], registry=self.registry
        )
        self.alerts = Counter("trimtab_alerts_received", "Alerts that reached a ModelMonitor.", registry=self.registry)

    def called(self, verb: str, resource: str, code: int) -> None:
        """For `cluster.client.Client`."""
        self.calls.labels(verb, resource, code).inc()

    @contextmanager
    def failing(self, kind: str) -> Iterator[None]:
        """Count a turn that fails. One that waits for a tenant's quota does not: its own status says so."""
        try:
            yield
        except Waits:
            raise
        except Exception:
            self.failures.labels(kind).inc()
            raise

    def watch_leader(self, leads: Callable[[], bool]) -> None:
        gauge = Gauge("trimtab_leader", "1 for the replica that acts, 0 for the others.", registry=self.registry)
        gauge.set_function(leads)

    def watch_queue(self, depth: Callable[[], int]) -> None:
        gauge = Gauge("trimtab_queue_depth", "Objects waiting for a worker.", registry=self.registry)
        gauge.set_function(depth)

    def watch_jobs(self, jobs: Jobs) -> None:
        """Count `jobs`, OptimizationJobs, at every scrape."""
        self.registry.register(_Jobs(jobs))

    def watch_works(
        self, works: Works, doing: Doings = lambda uid: None, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Tell at every scrape since when the longest of `works` runs, and how far it is."""
        self.registry.register(_Running(works, doing, clock))

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an OptimizationJob stands."""

    namespace: str
    state: str
    outcomes: Mapping[str, int]
    gpu_seconds: float

    @staticmethod
    def of(job: Mapping[str, Any]) -> Standing:
        status = job.get("status", {})
        outcomes = Tally(outcome for trial in status.get("trials", []) for outcome in ends(trial))
        spent = float(status.get("cost", {}).get("gpuSeconds", 0))
        return Standing(job["metadata"]["namespace"], status.get("state") or "Pending", outcomes, spent)


class _Jobs(Collector):
    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._known: dict[str, tuple[int, Standing]] = {}
        """By UID, with the version that it is of: most have not changed since the last scrape."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        states: Tally[tuple[str, ...]] = Tally()
        outcomes: Tally[tuple[str, ...]] = Tally()
        gpus: defaultdict[str, float] = defaultdict(float)
        for job in self._standings():
            gpus[job.namespace] += job.gpu_seconds
            states[job.namespace, job.state] += 1
            outcomes.update({(job.namespace, outcome): count for outcome, count in job.outcomes.items()})
        yield _family("trimtab_jobs", "OptimizationJobs by the reason of their summary condition.", "state", states)
        yield _family("trimtab_trials", "Trials' candidates by how they ended.", "outcome", outcomes)
        spent = GaugeMetricFamily(
            "trimtab_gpu_seconds", "What the OptimizationJobs that exist have spent.", labels=["namespace"]
        )
        for name, seconds in sorted(gpus.items()):
            spent.add_metric([name], seconds)
        yield spent

    def _standings(self) -> Iterator[Standing]:
        known, self._known = self._known, {}
        for kept in self._jobs():
            version, standing = known.get(kept.uid, (0, None))
            if standing is None or version != kept.version:
                standing = Standing.of(kept.object())
            self._known[kept.uid] = kept.version, standing
            yield standing


class _Running(Collector):
    def __init__(self, works: Works, doing: Doings, clock: Callable[[], datetime]) -> None:
        self._works = works
        self._doing = doing
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        longest: dict[tuple[str, str], tuple[datetime, str, str]] = {}
        for work in self._works():
            if work.running_since:
                about, began = (work.namespace, work.stage), (work.running_since, work.name, work.uid)
                longest[about] = min(began, longest.get(about, began))
        family = GaugeMetricFamily(
            "trimtab_longest_running_seconds",
            "For how long the pod has run that has run the longest.",
            labels=["namespace", "stage"],
        )
        now = self._clock()
        done = GaugeMetricFamily(
            "trimtab_longest_running_steps_done",
            "The fraction of its steps that this pod has behind it, if it runs for more than a minute and says so.",
            labels=["namespace", "stage"],
        )
        for about, (since, _, uid) in sorted(longest.items()):
            family.add_metric(about, max(0.0, (now - since).total_seconds()))
            if doing := self._doing(uid):
                done.add_metric(about, doing.done)
        yield family
        yield done


def ends(trial: Mapping[str, Any]) -> Iterator[str]:
    """How a trial's candidates ended, or how far it is; the input model is no trial of ours."""
    if trial["index"] == 0:
        return
    if trial["state"] == TrialState.SUCCEEDED:
        for candidate in trial.get("candidates", []):
            yield candidate.get("outcome") or "Pending"
    else:
        yield {TrialState.SKIPPED: Outcome.SKIPPED, TrialState.FAILED: Outcome.FAILED}.get(trial["state"], "Running")


def _family(name: str, text: str, label: str, counts: Mapping[tuple[str, ...], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["namespace", label])
    for labels, count in sorted(counts.items()):
        family.add_metric(labels, count)
    return family
