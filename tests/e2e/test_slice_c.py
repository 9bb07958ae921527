"""Slice C: the loop. Shifted traffic fires an alert, and exactly one re-optimization brings a model that fits it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from e2e.conftest import fill
from e2e.loop import Observers, Traffic, observed, require_observers, traffic
from e2e.support import EXAMPLES, Namespace, edited, get, kubectl, reached, wait_for

pytestmark = pytest.mark.e2e
NAMESPACE = "e2e-slice-c"
TOKEN = "e2e-token"
MONITOR_JOBS = "trimtab.dev/monitor-name=magika"


def sooner(monitor: dict[str, Any]) -> None:
    monitor["spec"]["triggers"] = [{"drift": {"sustained": "2s"}}]


def smaller(deployment: dict[str, Any]) -> None:
    """The node has two cores, and the server must leave room for trials."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["resources"]["requests"]["cpu"] = container["resources"]["limits"]["cpu"] = "500m"


@dataclass(frozen=True)
class Loop:
    """A served model with everything around it that closes the loop."""

    home: Namespace
    server: str
    observers: Observers
    traffic: Traffic
    usual: np.ndarray
    shifted: np.ndarray

    def digest(self) -> str:
        """What is served now."""
        lines = httpx.get(f"http://{self.server}/metrics").text.splitlines()
        line = next(line for line in lines if line.startswith("trimtab_model_info{"))
        return line.partition('digest="')[2].partition('"')[0]

    def monitor(self) -> Any:
        return get(self.home.name, "modelmonitors.trimtab.dev", "magika")

    def jobs(self) -> list[Any]:
        return get(self.home.name, "optimizationjobs.trimtab.dev", MONITOR_JOBS)

    def wait(self, what: str, test: Any, seconds: float) -> Any:
        try:
            return wait_for(what, test, seconds)
        except AssertionError as late:
            status = yaml.safe_dump(self.monitor()["status"])
            raise AssertionError(f"{late}\n{status}\n{self.home.story()}") from None


def publish_first(home: Namespace, data: Path) -> None:
    """The first model, as in slice A."""
    fill(home.claim("magika"), data)
    for claim in ("magika-published", "magika-captured", "trimtab-store"):
        home.claim(claim)
    home.apply(EXAMPLES / "magika" / "cluster.yaml", EXAMPLES / "loop" / "claims.yaml")
    home.load("magika")
    home.apply(EXAMPLES / "magika" / "job.yaml")


def serve(home: Namespace) -> None:
    deployment, service = yaml.safe_load_all((EXAMPLES / "loop" / "serve.yaml").read_text())
    smaller(deployment)
    home.apply(deployment, service)
    kubectl("-n", home.name, "rollout", "status", "deployment/magika", "--timeout=300s")


def watch(home: Namespace, observers: Observers) -> None:
    """Apply the monitor and give its rule to Prometheus."""
    home.apply(edited(EXAMPLES / "loop" / "monitor.yaml", sooner))
    name = wait_for(
        "the monitor names its rule",
        lambda: get(home.name, "modelmonitors.trimtab.dev", "magika").get("status", {}).get("rule"),
        300,
    )
    files = get(home.name, "configmap", name)["data"]
    for text in files.values():
        checked = subprocess.run(
            ["promtool", "check", "rules", "/dev/stdin"], input=text, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
    observers.load_rules(files)


def two_kinds_of_traffic(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows as the model was calibrated on, and rows of half of the file types only."""
    with np.load(data / "traffic.npz") as split:
        rows, labels = split["bytes"], split["labels"]
    half = sorted(set(labels.tolist()))[::2]
    return rows, rows[np.isin(labels, half)]


def close_loop(stack: ExitStack, home: Namespace, data: Path, webhook: str, folder: Path) -> Loop:
    """Serve, observe and send the usual traffic. The first model is published already."""
    serve(home)
    server = stack.enter_context(reached(home.name, "magika"))
    observers = stack.enter_context(observed(Observers(folder, server, webhook, TOKEN, home.name)))
    watch(home, observers)
    usual, shifted = two_kinds_of_traffic(data)
    return Loop(home, server, observers, stack.enter_context(traffic(server, "magika", usual)), usual, shifted)


@pytest.fixture(scope="module")
def loop(home: Namespace, operator: None, magika: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    require_observers()
    publish_first(home, magika)
    home.wait_complete("magika", 600)
    with ExitStack() as stack:
        webhook = stack.enter_context(reached("trimtab", "trimtab"))
        yield close_loop(stack, home, magika, webhook, tmp_path_factory.mktemp("observers"))


def test_usual_traffic_fires_nothing(loop: Loop) -> None:
    loop.wait("a full window", lambda: loop.observers.value("trimtab_drift_score"), 300)
    sent = loop.traffic.sent
    loop.wait("a thousand more rows", lambda: loop.traffic.sent > sent + 1000, 120)
    assert not loop.observers.alerts()
    assert loop.monitor()["status"]["state"] == "Watching"
    assert loop.observers.value("histogram_quantile(0.95, rate(trimtab_request_duration_seconds_bucket[1m]))")


def test_shifted_traffic_leads_to_one_new_model_and_the_alert_resolves(loop: Loop) -> None:
    before = loop.digest()
    loop.traffic.rows = loop.shifted
    loop.wait("the alert fires", loop.observers.alerts, 240)
    (job,) = loop.wait("a re-optimization is started", loop.jobs, 300)
    assert job["spec"]["data"]["calibration"]["uri"] == "pvc://magika-captured/current.npz"
    done = loop.home.wait_complete(job["metadata"]["name"], 600)
    assert done["status"]["published"]["digest"] != before
    loop.wait("the new digest is served", lambda: loop.digest() == done["status"]["published"]["digest"], 300)
    loop.wait("the alert resolves", lambda: not loop.observers.alerts(), 240)
    loop.wait("the monitor knows", lambda: loop.monitor()["status"]["triggers"][0]["state"] == "Resolved", 300)
    assert not loop.traffic.failures


def test_the_repeated_webhook_changed_nothing(loop: Loop) -> None:
    """Alertmanager repeated it every three seconds while the job ran."""
    sent = httpx.get(f"http://{loop.observers.alertmanager}/metrics").text.splitlines()
    webhooks = next(n for n in sent if n.startswith('alertmanager_notifications_total{integration="webhook"'))
    assert float(webhooks.rsplit(" ", 1)[1]) > 3
    assert len(loop.jobs()) == 1
    assert len(loop.monitor()["status"]["triggers"]) == 1


def test_within_the_cooldown_a_new_alert_waits(loop: Loop) -> None:
    loop.traffic.rows = loop.usual
    loop.wait("the alert fires again", loop.observers.alerts, 300)
    loop.wait("it is recorded", lambda: len(loop.monitor()["status"]["triggers"]) == 2, 300)
    held = loop.wait("and held", lambda: loop.monitor()["status"]["triggers"][1].get("message"), 300)
    assert held.startswith("CoolingDown")
    assert len(loop.jobs()) == 1
