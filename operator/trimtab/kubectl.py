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

from trimtab.api.job import OptimizationJob
from trimtab.api.names import GROUP
from trimtab.api.problems import problems
from trimtab.documents import Refused

KIND = f"optimizationjobs.{GROUP}"
_NOT_THERE = "kubectl: cannot be started ({}): install it, or put it on PATH"


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

    def job(self, name: str) -> OptimizationJob:
        """The OptimizationJob of that name."""
        found = json.loads(self.call("get", KIND, name, "--output=json"))
        try:
            return OptimizationJob.model_validate(found)
        except ValidationError as error:
            raise Refused([f"{name}: {line}" for line in problems(error, OptimizationJob)]) from None

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels, the oldest first."""
        found = json.loads(self.call("get", "pods", f"--selector={selector}", "--output=json"))["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def suspend(self, name: str, suspended: bool) -> None:
        """Set `spec.suspend`."""
        self.call("patch", KIND, name, "--type=merge", "--patch", json.dumps({"spec": {"suspend": suspended}}))
