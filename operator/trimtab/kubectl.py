"""The cluster as its user's kubectl reaches it: contexts, logins, plugins and proxies are settled there already.

So the plugin needs neither the operator's client nor its extra, and sees exactly what `kubectl get` shows.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trimtab.api.base import Record
from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.names import GROUP
from trimtab.api.problems import problems
from trimtab.api.status import Condition
from trimtab.documents import Refused

KIND = f"optimizationjobs.{GROUP}"
_NOT_THERE = "kubectl: cannot be started ({}): install it, or put it on PATH"


class _Ending(Record):
    conditions: list[Condition] = []
    state: str = ""


class Head(Record):
    """What of a job is the same in every version: enough to find its pods, and to tell whether it has ended."""

    metadata: ObjectMeta
    status: _Ending = _Ending()


@dataclass(frozen=True)
class Kubectl:
    """Calls kubectl with `flags`, such as a namespace and a context. Raises Refused with what kubectl complained of."""

    flags: Sequence[str]

    def call(self, *words: str) -> str:
        """What it printed."""
        try:
            done = subprocess.run(["kubectl", *self.flags, *words], capture_output=True, text=True, check=False)
        except OSError as error:
            raise Refused([_NOT_THERE.format(error.strerror)]) from None
        if done.returncode != 0:
            raise Refused(done.stderr.strip().splitlines() or [f"kubectl ended with {done.returncode}"])
        return done.stdout

    def show(self, *words: str) -> int:
        """Let it speak for itself, and return its exit code."""
        try:
            return subprocess.run(["kubectl", *self.flags, *words], check=False).returncode
        except OSError as error:
            raise Refused([_NOT_THERE.format(error.strerror)]) from None

    def head(self, name: str) -> Head:
        """Of the OptimizationJob of that name, which this version need not understand."""
        return Head.model_validate(self._get(name))

    def job(self, name: str) -> OptimizationJob:
        """The OptimizationJob of that name, read as the operator reads it: the defaults of a newer CRD are ignored."""
        try:
            return OptimizationJob.model_validate(self._get(name), extra="ignore")
        except ValidationError as error:
            raise Refused([f"{name}: {line}" for line in problems(error, OptimizationJob)]) from None

    def _get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("get", KIND, name, "--output=json"))
        return found

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels, the oldest first."""
        found = json.loads(self.call("get", "pods", f"--selector={selector}", "--output=json"))["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def suspend(self, name: str, suspended: bool) -> None:
        """Set `spec.suspend`."""
        self.call("patch", KIND, name, "--type=merge", "--patch", json.dumps({"spec": {"suspend": suspended}}))
