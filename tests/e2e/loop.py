"""The loop around a served model: a real Prometheus, a real Alertmanager, and traffic that can shift."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from e2e.support import wait_for
from ports import free_port

ROWS = 16
"""Rows in one request."""
PAUSE = 0.05
"""Seconds between two requests: some 200 rows a second, for as long as a test runs."""


PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager")
"""As Debian calls them."""


def require_observers() -> None:
    for name in PROGRAMS:
        if not shutil.which(name):
            pytest.skip(f"needs {name} to watch the served model; apt-get install prometheus prometheus-alertmanager")


@dataclass
class Observers:
    """Prometheus and Alertmanager as processes here, which reach Services as this machine does."""

    folder: Path
    server: str
    webhook: str
    token: str
    namespace: str
    prometheus: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    alertmanager: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    @property
    def rules(self) -> Path:
        return self.folder / "rules"

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that fire now."""
        found = httpx.get(f"http://{self.prometheus}/api/v1/alerts").json()["data"]["alerts"]
        return [alert for alert in found if alert["state"] == "firing"]

    def value(self, query: str) -> float | None:
        result = httpx.get(f"http://{self.prometheus}/api/v1/query", params={"query": query}).json()["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def load_rules(self, files: dict[str, str]) -> None:
        """What a mounted ConfigMap would bring."""
        for name, text in files.items():
            (self.rules / name).write_text(text)
        httpx.post(f"http://{self.prometheus}/-/reload").raise_for_status()

    def configure(self) -> None:
        self.rules.mkdir(parents=True, exist_ok=True)
        scraped = {"targets": [self.server], "labels": {"namespace": self.namespace}}
        prometheus = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{self.rules}/*.yaml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [self.alertmanager]}]}]},
            "scrape_configs": [{"job_name": "models", "static_configs": [scraped]}],
        }
        receiver = {
            "url": f"http://{self.webhook}/alerts",
            "send_resolved": True,
            "http_config": {"authorization": {"credentials": self.token}},
        }
        alertmanager = {
            "route": {
                "receiver": "trimtab",
                "group_by": ["namespace", "modelmonitor"],
                "group_wait": "1s",
                "group_interval": "1s",
                # So short that the webhook is repeated many times while one alert fires.
                "repeat_interval": "3s",
            },
            "receivers": [{"name": "trimtab", "webhook_configs": [receiver]}],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
        (self.folder / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager))

    def commands(self) -> Iterator[list[str]]:
        yield [
            "prometheus",
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/tsdb",
            f"--web.listen-address={self.prometheus}",
            "--web.enable-lifecycle",
        ]
        yield [
            "prometheus-alertmanager",
            f"--config.file={self.folder}/alertmanager.yml",
            f"--storage.path={self.folder}/alertmanager",
            f"--web.listen-address={self.alertmanager}",
            "--cluster.listen-address=",
        ]


@contextmanager
def observed(observers: Observers) -> Iterator[Observers]:
    """Both running and ready."""
    observers.configure()
    with (observers.folder / "log").open("wb") as log:
        processes = [subprocess.Popen(command, stdout=log, stderr=log) for command in observers.commands()]
    try:
        for address in (observers.prometheus, observers.alertmanager):
            wait_for(f"http://{address} is ready", lambda address=address: ready(f"http://{address}/-/ready"), 300)
        yield observers
    finally:
        for process in processes:
            process.terminate()
            process.wait(300)


def ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


class Traffic(threading.Thread):
    """Sends rows to the model server until it is stopped; what it sends can be changed on the way."""

    def __init__(self, server: str, model: str, rows: np.ndarray) -> None:
        super().__init__(daemon=True)
        self._url = f"http://{server}/v2/models/{model}/infer"
        self._ended = threading.Event()
        self.rows = rows
        self.sent = 0
        self.failures: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            for start in itertools.count(0, ROWS):
                if self._ended.wait(PAUSE):
                    return
                self._send(client, np.take(self.rows, range(start, start + ROWS), axis=0, mode="wrap"))

    def _send(self, client: httpx.Client, rows: np.ndarray) -> None:
        tensor = {"name": "bytes", "shape": list(rows.shape), "datatype": "INT32", "data": rows.ravel().tolist()}
        answer = client.post(self._url, json={"inputs": [tensor]})
        self.sent += len(rows)
        if answer.status_code != 200:
            self.failures.append(answer.text)

    def stop(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def traffic(server: str, model: str, rows: np.ndarray) -> Iterator[Traffic]:
    sending = Traffic(server, model, rows)
    sending.start()
    try:
        yield sending
    finally:
        sending.stop()
