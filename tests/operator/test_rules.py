"""The generated rules, judged by Prometheus's own promtool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitors import RUNBOOKS, make_monitor
from trimtab.api.monitor import ModelMonitor
from trimtab.rules import prometheus_duration, rule_file

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: install the Debian package prometheus"
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "loop"
DRIFT, LATENCY = "ModelDriftDetected", "ModelLatencyHigh"
MODEL = 'model_name="magika"'
POD_A, POD_B = f'{MODEL},namespace="ml",pod="a"', f'{MODEL},namespace="ml",pod="b"'
BARE = f'{MODEL},instance="localhost:8080"'


def promtool(folder: Path, *command: str) -> str:
    ended = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="drift and latency, recalibrate"),
        pytest.param({"action": "Reoptimize", "capture": None}, id="reoptimize"),
        pytest.param({"triggers": [{"drift": {"sustained": "1.5s"}}]}, id="a fraction of a second"),
        pytest.param({"triggers": [{"latency": {"max": "750us", "window": "0s"}}]}, id="an empty window"),
        pytest.param(
            {"triggers": [{"latency": {"max": "5ms", "percentile": p}} for p in ("P50", "P95", "P99", "P99")]},
            id="several percentiles, one twice",
        ),
        pytest.param({"target": {"model": "Magika_v3.3"}}, id="a name with dots"),
    ],
)
def test_prometheus_accepts_them(tmp_path: Path, spec: dict[str, Any]) -> None:
    rule = rule_file(make_monitor(**spec), RUNBOOKS)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule))
    found = promtool(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert f"SUCCESS: {len(rule['groups'][0]['rules'])} rules found" in found


def drift(labels: str, score: str, ready: str = "1x20", threshold: str = "0.2x20") -> dict[str, str]:
    """Series of a pod, a value every 15 s."""
    return {
        f"trimtab_drift_score{{{labels}}}": score,
        f"trimtab_drift_threshold{{{labels}}}": threshold,
        f"trimtab_capture_ready{{{labels}}}": ready,
    }


def latency(labels: str, fast: int, slow: int) -> dict[str, str]:
    """Counters of a pod that answers so many requests per 15 s in under 5 ms, and so many in 5 to 50 ms."""
    bucket = f"trimtab_request_duration_seconds_bucket{{{labels},le="
    total = f"0+{fast + slow}x20"
    return {
        bucket + '"0.005"}': f"0+{fast}x20",
        bucket + '"0.05"}': total,
        bucket + '"+Inf"}': total,
        f"trimtab_request_duration_seconds_count{{{labels}}}": total,
    }


# What the series are, and which alerts fire after 30 s and after 4 min. `sustained` is 1 min.
SCENARIOS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    "nothing is served": ({}, [], []),
    "no drift": (drift(POD_A, "0.1x20"), [], []),
    "sustained drift": (drift(POD_A, "0.9x20"), [], [DRIFT]),
    "drift that is over within a minute": (drift(POD_A, "0.9x2 0.1x20"), [], []),
    "drift without a complete capture": (drift(POD_A, "0.9x20", ready="0x20"), [], []),
    "the capture is complete later": (drift(POD_A, "0.9x20", ready="0x7 1x20"), [], [DRIFT]),
    "a score before the window is full": (drift(POD_A, "_x20"), [], []),
    "one pod of two, one alert": (drift(POD_A, "0.1x20") | drift(POD_B, "0.9x20"), [], [DRIFT]),
    "both pods, one alert": (drift(POD_A, "0.8x20") | drift(POD_B, "0.9x20"), [], [DRIFT]),
    "a pod is held to its own threshold": (
        drift(POD_A, "0.9x20", threshold="1x20") | drift(POD_B, "0.1x20"),
        [],
        [],
    ),
    "the pod that drifts is replaced": (
        drift(POD_A, "0.9x4 stale", ready="1x4 stale") | drift(POD_B, "_x4 0.9x20"),
        [],
        [DRIFT],
    ),
    "outside Kubernetes there is no namespace label": (drift(BARE, "0.9x20"), [], [DRIFT]),
    "another namespace's model": (drift(f'{MODEL},namespace="other"', "0.9x20"), [], []),
    "another model": (drift('model_name="digits",namespace="ml"', "0.9x20"), [], []),
    "fast": (latency(POD_A, 100, 2), [], []),
    "one request in ten is slow": (latency(POD_A, 90, 10), [], [LATENCY]),
    "slow, but too few requests to tell": (latency(POD_A, 9, 1), [], []),
    "one slow pod of ten requests beside a fast one": (latency(POD_A, 1000, 0) | latency(POD_B, 0, 10), [], []),
    "two slow pods": (latency(POD_A, 50, 50) | latency(POD_B, 50, 50), [], [LATENCY]),
}


def test_when_they_fire(tmp_path: Path) -> None:
    """All scenarios in one run of promtool, which takes longer to start than to judge."""
    file = rule_file(make_monitor(), RUNBOOKS)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(file))
    tests = [_unit_test(name, file, *scenario) for name, scenario in SCENARIOS.items()]
    unit = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(unit))
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "test.yaml")


def _unit_test(name: str, file: dict[str, Any], series: dict[str, str], early: list[str], late: list[str]) -> Any:
    # Only whether each rule has an active alert: the templated text has its own test.
    queries = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
            "eval_time": time,
            "exp_samples": [{"labels": "{}", "value": float(alert in firing)}],
        }
        for time, firing in (("30s", early), ("4m", late))
        for alert in (DRIFT, LATENCY)
    ]
    inputs = [{"series": labels, "values": values} for labels, values in series.items()]
    return {"name": name, "interval": "15s", "input_series": inputs, "promql_expr_test": queries}


def test_what_they_say(tmp_path: Path) -> None:
    rules = rule_file(make_monitor(), RUNBOOKS)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    labels = {
        "severity": "warning",
        "namespace": "ml",
        "modelmonitor": "magika",
        "modelmonitor_uid": "3f1c-77",
        "model_name": "magika",
    }
    differ = "The inputs or predictions of model magika differ from those it was published for"
    expected = {
        DRIFT: (
            {"action": "Recalibrate", "trigger": "drift-0"},
            "The traffic of model magika has drifted.",
            f"{differ}: drift score 0.90, above its calibrated threshold for 1m.",
        ),
        LATENCY: (
            {"action": "Reoptimize", "trigger": "latency-1"},
            "Model magika answers slower than promised.",
            "The P95 of the requests to model magika over 1m is 27.5ms, above 5ms for 1m.",
        ),
    }
    tests = [
        {
            "interval": "15s",
            "input_series": [
                {"series": name, "values": values}
                for name, values in (drift(POD_A, "0.9x20") | latency(POD_A, 90, 10)).items()
            ],
            "alert_rule_test": [
                {
                    "alertname": alert,
                    "eval_time": "4m",
                    "exp_alerts": [
                        {
                            "exp_labels": labels | own,
                            "exp_annotations": {
                                "summary": summary,
                                "description": description,
                                "runbook_url": f"https://wiki.example/trimtab#{alert.lower()}",
                            },
                        }
                    ],
                }
                for alert, (own, summary, description) in expected.items()
            ],
        }
    ]
    unit = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(unit))
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "test.yaml")


def test_the_examples_configuration_is_accepted(tmp_path: Path) -> None:
    config = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text())
    for scrape in config["scrape_configs"]:
        assert scrape.pop("kubernetes_sd_configs") == [{"role": "endpoints"}]  # which Debian's build has not
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool(tmp_path, "check", "config", "--syntax-only", "prometheus.yml")
    if amtool := shutil.which("amtool"):
        subprocess.run([amtool, "check-config", EXAMPLE / "alertmanager.yml"], check=True, capture_output=True)


def test_the_examples_monitor_fits_its_server() -> None:
    monitor = ModelMonitor.model_validate(yaml.safe_load((EXAMPLE / "monitor.yaml").read_text()))
    deployment = next(yaml.safe_load_all((EXAMPLE / "serve.yaml").read_text()))
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    publish = monitor.spec.job_template.spec.publish
    assert publish
    assert f"--model-name={monitor.spec.target.model}" in arguments
    assert f"--capture={monitor.spec.capture}" in arguments
    assert f"--from={publish.uri}" in arguments


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("5m", "300s"), ("1h30m", "5400s"), ("1.5s", "1500ms"), ("250us", "1ms"), ("0s", "1ms")],
)
def test_durations(duration: str, expected: str) -> None:
    assert prometheus_duration(duration) == expected
