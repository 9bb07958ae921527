"""The objects of the bench, and what their pods report. By an object's number alone, so every run has the same.

Most jobs are as small as a job can be (two Jobs: Inspect and one trial, and nothing keeps the promise), every 25th is
a usual one (two trials, a playoff, a winner published: five Jobs), and every 625th has 128 trials (131 Jobs).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trimtab.api.model import EngineName, Metric
from trimtab.api.names import API_VERSION, JOB_UID_LABEL, STAGE_LABEL, TRIAL_LABEL
from trimtab.api.status import Claim, Hardware, Inspection, Interval, Verdict
from trimtab.api.work import Measurement, Report, Stage, Timing
from trimtab.pod import task_text

JOBS_PER_NAMESPACE = 250
RUNTIME = {"image": "jobs:dev", "store": {"uri": "pvc://store"}}
LARGE_EVERY, USUAL_EVERY = 625, 25
TRIALS = 128

Object = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A kind of job, and how many Jobs it comes to."""

    name: str
    jobs: int
    spec: Mapping[str, Any]


def shape(number: int, trials: int = TRIALS) -> Shape:
    if number % LARGE_EVERY == 0:
        return _large(trials, "Bayesian" if number % (2 * LARGE_EVERY) else "Random")
    return USUAL if number % USUAL_EVERY == 0 else SMALL


def namespace(number: int) -> str:
    return f"team-{number // JOBS_PER_NAMESPACE}"


def job(number: int, trials: int = TRIALS) -> Object:
    """The manifest of one OptimizationJob."""
    return {
        "apiVersion": API_VERSION,
        "kind": "OptimizationJob",
        "metadata": {"name": f"job-{number}", "namespace": namespace(number)},
        "spec": _spec(shape(number, trials).spec),
    }


def number_of(owner: Object) -> int:
    return int(owner["metadata"]["name"].rpartition("-")[2])


def runtime(where: str) -> Object:
    metadata = {"name": "default", "namespace": where}
    return {"apiVersion": API_VERSION, "kind": "OptimizationRuntime", "metadata": metadata, "spec": RUNTIME}


def _spec(own: Mapping[str, Any]) -> Object:
    return {
        "model": {"uri": "pvc://models/classifier/model.onnx", "format": "ONNX"},
        "data": {
            "calibration": {"uri": "pvc://data/classifier/calibration.npz"},
            "evaluation": {"uri": "pvc://data/classifier/evaluation.npz"},
            "holdout": {"uri": "pvc://data/classifier/holdout.npz"},
        },
        "constraints": [{"metric": "accuracy", "maxDrop": "1%"}],
        "objectives": [{"metric": "latencyP50", "goal": "Minimize"}],
        "target": {"engines": ["ONNXRuntime"]},
        "publish": {"uri": "pvc://published/classifier"},
        **own,
    }


def _quantize(**settings: Any) -> list[Object]:
    return [{"quantize": settings}]


SMALL = Shape(
    "one trial, no winner",
    2,
    {
        "constraints": [{"metric": "accuracy", "maxDrop": "1%"}, {"metric": "size", "max": "1Ki"}],
        "techniques": _quantize(operatorScope=["Compute"]),
        "search": {"maxTrials": 1},
    },
)
USUAL = Shape("two trials, a winner", 5, {"techniques": _quantize(operatorScope=["All", "Compute"])})


def _large(trials: int, algorithm: str) -> Shape:
    """288 points, so that the search never runs dry."""
    techniques = _quantize(
        activationType=["Int8", "UInt8"],
        weightType=["Int8", "UInt8"],
        reduceRange=["Auto", "Always", "Never"],
        operatorScope=["All", "Compute", "Conv", "MatMul"],
        perChannel=[True, False],
        calibrateMethod=["MinMax", "Entropy", "Percentile"],
    )
    search = {"maxTrials": trials, "parallelism": 8, "algorithm": algorithm}
    return Shape(f"{trials} trials, a winner", trials + 3, {"techniques": techniques, "search": search})


def mark(work: Object) -> str:
    """What a Job's end shows as in its owner's status: `UID/Trial/7`."""
    labels = work["metadata"]["labels"]
    return f"{labels[JOB_UID_LABEL]}/{labels[STAGE_LABEL]}/{labels.get(TRIAL_LABEL, '')}"


def marks(owner: Object) -> Iterator[str]:
    """The ends of Jobs that a status tells of."""
    uid, status = owner["metadata"]["uid"], owner.get("status", {})
    if status.get("inspection"):
        yield f"{uid}/Inspect/"
    if status.get("playoffDone") and status.get("controlRatio"):
        yield f"{uid}/Playoff/"
    if status.get("claim"):
        yield f"{uid}/Publish/"
    yield from (f"{uid}/Trial/{t['index']}" for t in status.get("trials", [])[1:] if t["state"] != "Running")


def finished(owner: Object) -> bool:
    conditions = owner.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def report(work: Object) -> str:
    """The termination message that a healthy pod of this Job leaves."""
    labels = work["metadata"]["labels"]
    stage = Stage(labels[STAGE_LABEL])
    if stage == Stage.PLAYOFF:
        finalists = json.loads(task_text(work))["finalists"]
        return _playoff(tuple((finalist["trial"], finalist["engine"]) for finalist in finalists))
    return _report(stage, int(labels.get(TRIAL_LABEL, 0)))


@lru_cache(maxsize=512)
def _report(stage: Stage, trial: int) -> str:
    if stage == Stage.INSPECT:
        return _inspected().compact()
    if stage == Stage.PUBLISH:
        claim = Claim(verdict=Verdict.HOLDS, samples=1000, baseline="0.95", winner="0.948")
        return Report(
            stage=stage, artifact=_digest(1), claim=claim, published="pvc://published/a", seconds=20
        ).compact()
    measured = _measured(quality=0.95 - 0.0002 * (trial % 60), ratio=_ratio(trial), size=300_000 + 97 * trial)
    return Report(stage=stage, trial=trial, artifact=_digest(trial), measurements=[measured], seconds=61.5).compact()


@lru_cache(maxsize=512)
def _playoff(finalists: tuple[tuple[int, str], ...]) -> str:
    timings = [
        Timing(trial=trial, engine=EngineName(engine), ratio=_interval(_ratio(trial)), metrics=_latencies(trial))
        for trial, engine in finalists
    ]
    return Report(stage=Stage.PLAYOFF, timings=timings, control=_interval(1.0), seconds=90).compact()


def _inspected() -> Report:
    return Report(
        stage=Stage.INSPECT,
        artifact=_digest(0),
        inspection=Inspection(
            model_digest=_digest(0),
            data_digests={split: _digest(ord(split[0])) for split in ("calibration", "evaluation", "holdout")},
            samples={"calibration": 300, "evaluation": 1000, "holdout": 1000},
            operators={"Conv": 24, "Relu": 23, "Add": 8, "Gemm": 1, "GlobalAveragePool": 1, "Flatten": 1},
            inputs={"image": "float32[N,3,224,224]"},
            size=1_200_000,
        ),
        hardware=Hardware(),
        measurements=[_measured(quality=0.95, ratio=1.0, size=1_200_000)],
        seconds=30,
    )


def _measured(quality: float, ratio: float, size: int) -> Measurement:
    metrics = {Metric.ACCURACY: quality, Metric.LATENCY_P50: 0.002 * ratio, Metric.LATENCY_P95: 0.0024 * ratio}
    return Measurement(engine=EngineName.ONNXRUNTIME, metrics={**metrics, Metric.SIZE: size}, seconds=5)


def _latencies(trial: int) -> dict[Metric, float]:
    return {Metric.LATENCY_P50: 0.002 * _ratio(trial), Metric.LATENCY_P95: 0.0024 * _ratio(trial)}


def _ratio(trial: int) -> float:
    return 0.6 + 0.002 * ((trial * 37) % 100) if trial else 1.0


def _interval(ratio: float) -> Interval:
    return Interval(estimate=f"{ratio:.4g}", low=f"{ratio - 0.01:.4g}", high=f"{ratio + 0.01:.4g}")


def _digest(number: int) -> str:
    return f"sha256:{number:064x}"
