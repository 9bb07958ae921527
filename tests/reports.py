"""Jobs that ended in every way a report has to explain, run in the simulated world."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache

from builders import Quality, World, broken, interval, lost, make_job
from trimtab.api.job import OptimizationJob
from trimtab.api.model import EngineName, Metric
from trimtab.api.names import Reason
from trimtab.api.status import (
    CandidateStatus,
    Claim,
    Hardware,
    Inspection,
    OptimizationJobStatus,
    TrialState,
    TrialStatus,
    Verdict,
)
from trimtab.api.work import ErrorKind, Report, Stage
from trimtab.decisions import ObservedWork, Work, WorkState
from trimtab.select import select

HOSTILE = "</code><script>alert(1)</script>|`*`"

MANY = {
    "techniques": [
        {
            "quantize": {
                "method": ["Static", "Dynamic"],
                "operatorScope": ["All", "Compute"],
                "perChannel": [True, False],
                "calibrateMethod": ["MinMax", "Entropy", "Percentile"],
            }
        }
    ],
    "target": {"engines": ["ONNXRuntime", "OpenVINO"]},
    "constraints": [{"metric": "accuracy", "maxDrop": "1%"}, {"metric": "latencyP50", "max": "2.5ms"}],
    "search": {"maxTrials": 24},
}


def scattered(settings: Mapping[str, str], engine: EngineName) -> Quality:
    """A crowd: some ruined, some tied, most close together."""
    chance = random.Random(repr(sorted(settings.items())) + engine)
    base = Quality(ratio=1.0 if engine == EngineName.ONNXRUNTIME else 0.85)
    if not settings:
        return base
    accuracy = 0.2 if settings["quantize.operatorScope"] == "All" and chance.random() < 0.6 else 0.945
    return Quality(accuracy + round(chance.uniform(0, 0.01), 3), round(chance.uniform(0.5, 1.1), 2), 300)


def sabotage(work: Work) -> ObservedWork | None:
    """Trial 3 does not apply, trial 5 never leaves a report, trial 7 is refused with hostile words."""
    if work.task.trial == 3:
        report = Report(stage=Stage.TRIAL, trial=3, skipped="the model has no Conv to quantize")
        return ObservedWork(work, WorkState.SUCCEEDED, report)
    if work.task.trial == 7:
        return ObservedWork(
            work, WorkState.FAILED, broken(Stage.TRIAL, ErrorKind.PERMANENT, f"no kernel for {HOSTILE}", 7)
        )
    return lost(work) if work.task.trial == 5 else None


def ended(world: World, *, samples: int = 1000) -> OptimizationJob:
    """The job at its end, with what a real Inspect finds."""
    status = world.run()
    inspection = status.inspection and Inspection(
        model_digest=status.inspection.model_digest,
        data_digests={"evaluation": "sha256:e", "holdout": "sha256:h"},
        samples={"evaluation": samples, "holdout": samples},
        operators={"Conv": 3, "Gemm": 1},
        inputs={"x": "float32[N,64]"},
    )
    hardware = Hardware(cpu="Some CPU", flags=["avx2"], threads=2, versions={"onnxruntime": "1.31.1"})
    status = status.model_copy(update={"inspection": inspection, "hardware": hardware})
    return world.job.model_copy(update={"status": status})


def claimed(job: OptimizationJob, verdict: Verdict, drop: float, spread: float, message: str) -> OptimizationJob:
    """The same with another claim; a violated one publishes nothing."""
    claim = Claim(
        samples=200, baseline="0.95", winner="0.945", drop=interval(drop, spread), verdict=verdict, message=message
    )
    update: dict[str, object] = {"claim": claim}
    if verdict == Verdict.VIOLATED:
        update |= {"published": None, "state": Reason.CLAIM_VIOLATED.value}
    return job.model_copy(update={"status": job.status.model_copy(update=update)})


def winner() -> OptimizationJob:
    return claimed(ended(World(make_job())), Verdict.HOLDS, 0.002, 0.004, "the drop is 0.2%")


def crowded() -> OptimizationJob:
    return ended(World(make_job(**MANY), scattered, sabotage=sabotage))


def inconclusive() -> OptimizationJob:
    return claimed(ended(World(make_job()), samples=200), Verdict.INCONCLUSIVE, 0.005, 0.012, "about 900 would tell")


def violated() -> OptimizationJob:
    return claimed(ended(World(make_job())), Verdict.VIOLATED, 0.03, 0.01, "the drop is 3%")


def nothing_feasible() -> OptimizationJob:
    return ended(World(make_job(constraints=[{"metric": "accuracy", "min": "99%"}])))


def baseline_is_best() -> OptimizationJob:
    return ended(World(make_job(), lambda settings, engine: Quality(ratio=1.3 if settings else 1.0)))


def failed() -> OptimizationJob:
    return ended(World(make_job(), sabotage=lambda work: lost(work) if work.task.stage == Stage.PLAYOFF else None))


def regression() -> OptimizationJob:
    """Promised as a share of the input model's error, which is better the smaller it is."""
    job = make_job(constraints=[{"metric": "mse", "maxDrop": "5%"}, {"metric": "mse", "max": "0.25"}])
    trials = [measured(0, 1.0, mse="0.2"), measured(1, 0.5, mse="0.206"), measured(2, 0.4, mse="0.9")]
    inspection = Inspection(quality=Metric.MSE, samples={"holdout": 200}, inputs={"x": "float32[N,8]"})
    status = OptimizationJobStatus(inspection=inspection, trials=trials, state=Reason.PUBLISHED)
    chosen = select(job.spec, status)
    claim = Claim(
        metric=Metric.MSE,
        samples=200,
        baseline="0.21",
        winner="0.2142",
        drop=interval(0.02, 0.01),
        verdict=Verdict.HOLDS,
        message="mse rises by 2%",
    )
    update = {"trials": list(chosen.trials), "best": chosen.best, "claim": claim}
    return job.model_copy(update={"status": status.model_copy(update=update)})


def measured(index: int, ratio: float, **metrics: str) -> TrialStatus:
    known = {
        "latencyP50": f"{0.002 * ratio:.4g}",
        "latencyP95": f"{0.003 * ratio:.4g}",
        "size": "1000",
        "peakMemory": "4000",
    }
    entry = CandidateStatus(engine=EngineName.ONNXRUNTIME, metrics=known | metrics, time_ratio=interval(ratio))
    return TrialStatus(index=index, state=TrialState.SUCCEEDED, artifact=f"sha256:{index}", candidates=[entry])


def hostile() -> OptimizationJob:
    job = crowded()
    trials = [
        trial.model_copy(update={"settings": trial.settings | {HOSTILE: HOSTILE}, "message": HOSTILE})
        for trial in job.status.trials
    ]
    inspection = job.status.inspection.model_copy(update={"inputs": {f"x'{HOSTILE}\n": "float32[N,64]"}})
    status = job.status.model_copy(update={"trials": trials, "inspection": inspection, "nearest_miss": HOSTILE})
    metadata = job.metadata.model_copy(update={"name": HOSTILE})
    return job.model_copy(update={"metadata": metadata, "status": status})


ENDINGS: dict[str, Callable[[], OptimizationJob]] = {
    made.__name__.replace("_", " "): cache(made)
    for made in (
        winner,
        crowded,
        inconclusive,
        violated,
        nothing_feasible,
        baseline_is_best,
        failed,
        regression,
        hostile,
    )
}
