"""Writes what this version says and stores, for the next ones to be tested against.

    make record             # once for each release, when it is out
    make record OF=v0.1.0   # of another commit than the newest

puts it into `recorded`, with the version's wheel, and its chart into tests/chart: all of the last release (before the
first: of a commit).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

from builders import World, job_dict
from trimtab.api.job import OptimizationJob
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.techniques import Techniques
from trimtab.api.work import Report, Task
from trimtab.manifests import job_manifest

RECORDED = Path(__file__).parent / "recorded"
JOB = job_dict(
    techniques=[
        {"optimizeGraph": {}, "optional": True},
        {"quantize": {"operatorScope": ["All", "Compute"], "perChannel": [True]}},
    ],
    search={"algorithm": "Grid", "maxTrials": 4, "parallelism": 2},
    budget={"deadline": "1h"},
    target={"engines": ["ONNXRuntime", "OpenVINO"]},
)


def flow() -> dict[str, Any]:
    """A job's life: every Job that is created, the report its pod leaves, and every status in between."""
    world = World(OptimizationJob.model_validate(JOB))
    jobs: dict[str, Any] = {}
    reports: dict[str, Any] = {}
    statuses: list[Any] = []
    while not statuses or world.job.status.wire() != statuses[-1]["status"]:
        statuses.append({"status": world.job.status.wire(), "started": sorted(jobs)})
        for work in world.step().create:
            assert world.runtime
            jobs[work.name] = job_manifest(work, world.runtime, world.job)
            report = world.works[work.name].report
            reports[work.name] = json.loads(report.compact()) if report else None
    return {"job": JOB, "jobs": jobs, "reports": reports, "statuses": statuses}


def schemas() -> dict[str, Any]:
    """What this version understands."""
    models = {"task": Task, "report": Report, "status": OptimizationJobStatus}
    return {name: model.model_json_schema(by_alias=True) for name, model in models.items()}


def defaults() -> dict[str, Any]:
    """What a setting is where a Task does not say it."""
    configs = {f.alias or name: get_args(f.annotation)[0] for name, f in Techniques.model_fields.items()}
    return {
        name: {
            field.alias: field.get_default(call_default_factory=True)
            for field in config.model_fields.values()
            if not field.is_required()
        }
        for name, config in configs.items()
        if hasattr(config, "model_fields")
    }


def documents() -> dict[str, Any]:
    return {"flow": flow(), "schemas": schemas(), "defaults": defaults()}


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=lambda model: model.wire()) + "\n"


if __name__ == "__main__":
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED
    for name, value in documents().items():
        (into / f"{name}.json").write_text(as_json(value))
