"""The chart's objects, as a real helm renders them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import apiserver
from trimtab.api.schema.__main__ import ROOT
from trimtab.settings import Settings

CHART = ROOT / "charts" / "trimtab"
NAMESPACE = "trimtab-system"
Object = dict[str, Any]


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Helm without a cluster."""
    return subprocess.run([apiserver.tool("helm"), *words], text=True, capture_output=True, check=False)


def render(*settings: str) -> list[Object]:
    """The chart's objects, given `--set` settings."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = helm("template", "trimtab", str(CHART), "--namespace", NAMESPACE, *chosen)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def the(kind: str, objects: list[Object], name: str = "trimtab") -> Object:
    [found] = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def operator_account(folder: Path, name: str = "trimtab") -> Path:
    """A kubeconfig of the operator's service account, with the rights that the chart gives it and no more."""
    admin = yaml.safe_load(apiserver.kubeconfig().read_text())
    token = apiserver.kubectl("create", "token", name, "--namespace", NAMESPACE).stdout.strip()
    admin["users"] = [{"name": user["name"], "user": {"token": token}} for user in admin["users"]]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(admin))
    return path


def check(kubeconfig: Path, settings: Settings, *values: str) -> subprocess.CompletedProcess[str]:
    """What the pod of `helm test` does, given these `--set` settings."""
    [container] = the("Pod", render(*values), "trimtab-test")["spec"]["containers"]
    command = [sys.executable, "-m", "trimtab", "operator", "--check", "127.0.0.1", *container["args"][2:]]
    variables = {"PYTHONPATH": str(ROOT / "operator"), "KUBECONFIG": str(kubeconfig)}
    environment = os.environ | settings.environment() | variables
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=120)
