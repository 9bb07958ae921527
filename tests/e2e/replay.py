"""What a cluster measured, given to the local runner: it must propose and decide the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from e2e.support import Namespace, get
from trimtab.api.job import OptimizationJob
from trimtab.api.status import OptimizationJobStatus
from trimtab.api.work import Report
from trimtab.decisions import Work
from trimtab.manifests import work_of
from trimtab.plan import work_name
from trimtab.runs import identified


def recorded(home: Namespace, job: str) -> Iterator[tuple[Work, Report]]:
    """Every finished piece of work of a job with the report its pod left."""
    for raw in get(home.name, "jobs", f"trimtab.dev/job-name={job}"):
        (pod,) = get(home.name, "pods", f"job-name={raw['metadata']['name']}")
        message = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        yield work_of(raw), Report.model_validate_json(message)


def replay(
    document: dict[str, Any], works: list[tuple[Work, Report]], out: Path, volumes: Path
) -> OptimizationJobStatus:
    """Run the job locally in a folder where all its work lies finished already, with the cluster's reports."""
    claims = {folder.name: folder for folder in volumes.iterdir() if folder.is_dir()}
    job = identified(OptimizationJob.model_validate(document), out, claims)
    for work, report in works:
        folder = out / "work" / work_name(job, work.task.stage, work.task.trial, work.attempt)
        folder.mkdir(parents=True)
        (folder / "task.json").write_text(work.task.model_dump_json(by_alias=True, exclude_none=True))
        (folder / "message").write_text(report.compact())
    started = {folder.name for folder in (out / "work").iterdir()}
    status = run_locally(document, out, volumes)
    assert {folder.name for folder in (out / "work").iterdir()} == started, "the local run asked for other work"
    return status


def run_locally(document: dict[str, Any], out: Path, volumes: Path) -> OptimizationJobStatus:
    """`trimtab run` on a manifest, every claim a folder under `volumes`."""
    manifest = out.with_suffix(".yaml")
    manifest.write_text(yaml.safe_dump(document))
    mapped = [f"--volume={folder.name}={folder}" for folder in volumes.iterdir() if folder.is_dir()]
    command = [sys.executable, "-m", "trimtab", "run", manifest, "--out", out, *mapped]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return OptimizationJobStatus.model_validate(json.loads((out / "status.json").read_text())["status"])


def proposals(status: OptimizationJobStatus) -> list[dict[str, str]]:
    return [trial.settings for trial in status.trials]


def decisions(status: OptimizationJobStatus) -> object:
    """All that was decided; not when, and not what the pods cost."""
    ignored = {"conditions", "start_time", "completion_time", "observed_generation", "cost"}
    return status.model_dump(exclude=ignored)
