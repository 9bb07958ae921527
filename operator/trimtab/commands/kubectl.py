"""`kubectl trimtab`: the explanation and report of a local run, and what takes a cluster: logs, suspend, resume."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path
from typing import Any

from trimtab.api.answer import Answer
from trimtab.api.names import ATTEMPT_LABEL, JOB_UID_LABEL, STAGE_LABEL, TRIAL_LABEL
from trimtab.conditions import is_finished
from trimtab.documents import Refused
from trimtab.explain import explain
from trimtab.kubectl import Head, Kubectl
from trimtab.page import files
from trimtab.pod import CONTAINER
from trimtab.report import build
from trimtab.runs import check_writable, writable, write
from trimtab.voice import Said, speak

FOLLOWED = 64
"""Pods whose logs kubectl follows at once; of a job more never run together."""


def main(given: argparse.Namespace) -> int:
    return speak(given, lambda: _VERBS[given.verb](given, _kubectl(given)))


def _kubectl(given: argparse.Namespace) -> Kubectl:
    flags = {name: getattr(given, name) for name in ("namespace", "context", "kubeconfig")}
    return Kubectl([f"--{name}={value}" for name, value in flags.items() if value])


def _explain(given: argparse.Namespace, kubectl: Kubectl) -> Said:
    return Answer(command=given.verb), explain(kubectl.job(given.name))


def _report(given: argparse.Namespace, kubectl: Kubectl) -> Said:
    job = kubectl.job(given.name)
    if not job.status.inspection:
        raise Refused([f"{given.name}: there is nothing to report yet: kubectl trimtab explain {given.name} says why"])
    folder = given.out or Path(".trimtab") / job.metadata.namespace / job.metadata.name
    check_writable(f"--out {folder}", folder.resolve())
    made = files(build(job))
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            write(folder / name, text)
    page = folder / next(iter(made))
    if given.open:
        webbrowser.open(page.resolve().as_uri())
    return Answer(command=given.verb, paths={"report": str(page)}), f"report: {page}"


def _logs(given: argparse.Namespace, kubectl: Kubectl) -> Said:
    selector = _selector(given, kubectl.head(given.name))
    pods = kubectl.pods(selector)
    if not pods:
        raise Refused([f"{given.name}: no such pod of it is there: kubectl trimtab explain {given.name} says why"])
    if given.follow:
        words = ("--prefix", "--tail=-1", f"--max-log-requests={FOLLOWED}")
        return Answer(
            command=given.verb, exit_code=kubectl.show("logs", "--follow", f"--selector={selector}", *words)
        ), ""
    codes = [_log(pod, kubectl) for pod in pods]
    return Answer(command=given.verb, exit_code=max(codes)), ""


def _selector(given: argparse.Namespace, job: Head) -> str:
    wanted = {JOB_UID_LABEL: job.metadata.uid, STAGE_LABEL: given.stage, TRIAL_LABEL: given.trial}
    return ",".join(f"{label}={value}" for label, value in wanted.items() if value is not None)


def _log(pod: dict[str, Any], kubectl: Kubectl) -> int:
    labels = pod["metadata"]["labels"]
    trial = f" {labels[TRIAL_LABEL]}" if TRIAL_LABEL in labels else ""
    again = f", attempt {labels[ATTEMPT_LABEL]}" if labels.get(ATTEMPT_LABEL, "0") != "0" else ""
    sys.stdout.write(f"==> {labels[STAGE_LABEL]}{trial}{again}: {pod['status'].get('phase', 'Unknown')}\n")
    sys.stdout.flush()
    return kubectl.show("logs", pod["metadata"]["name"], f"--container={CONTAINER}")


def _suspend(given: argparse.Namespace, kubectl: Kubectl) -> Said:
    suspended = given.verb == "suspend"
    job = kubectl.head(given.name)
    if is_finished(job.status.conditions):
        raise Refused([f"{given.name}: has ended ({job.status.state}): nothing runs; create a new job to run it again"])
    kubectl.suspend(given.name, suspended)
    goes_on = f"its pods end, what has finished is kept; kubectl trimtab resume {given.name} goes on"
    return Answer(command=given.verb), f"{given.name}: {f'suspended: {goes_on}' if suspended else 'resumed'}"


_VERBS = {"explain": _explain, "report": _report, "logs": _logs, "suspend": _suspend, "resume": _suspend}
