"""`trimtab run`: an OptimizationJob here, with processes in place of pods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from trimtab.api.job import OptimizationJob
from trimtab.api.model import Device
from trimtab.api.runtime import OptimizationRuntime
from trimtab.documents import Refused, read_documents, read_job
from trimtab.local import run_local
from trimtab.voice import Said, ended, following, speak


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _run(given))


def _run(given: argparse.Namespace) -> Said:
    job = read_job(given.job)
    sys.stderr.writelines(f"{given.job}: {ignored}\n" for ignored in _ignored(job, read_documents(given.job)))
    folder = given.out or Path(".trimtab") / job.metadata.name
    with following(given, job.spec) as follower:
        status = run_local(job, folder, _volumes(given.volume), follower)
    return ended(given, job.spec, status, folder)


def _ignored(job: OptimizationJob, documents: Iterable[object]) -> Iterator[str]:
    """What only a cluster can do."""
    if job.spec.target.device == Device.GPU:
        yield "spec.target.device: GPU is for clusters: here engines run on the CPU"
    for runtime in documents:
        if isinstance(runtime, OptimizationRuntime) and runtime.spec.distributed:
            yield (
                f"{runtime.kind} {runtime.metadata.name}: spec.distributed is for clusters: "
                "here a step that trains is one process"
            )


def _volumes(given: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    for claim, equals, folder in pairs:
        if not claim or not equals or not folder:
            raise Refused([f"--volume {claim}{equals}{folder}: write CLAIM=DIR"])
    return {claim: Path(folder) for claim, _, folder in pairs}
