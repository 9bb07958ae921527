"""The chart's alerts and dashboards, judged by Prometheus's own promtool and by what the programs export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.support import NAMESPACE, ROOT, render, the
from trimtab.api.names import AlertName, Reason, ServedMetric
from trimtab.metrics import Metrics

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        shutil.which("promtool") is None, reason="needs promtool: install the Debian package prometheus"
    ),
]

DASHBOARDS = sorted((ROOT / "charts" / "trimtab" / "dashboards").glob("*.json"))
OURS = f'job="trimtab",namespace="{NAMESPACE}"'
UP = {f"trimtab_leader{{{OURS}}}": "1x200"}
Rule = dict[str, Any]
Series = dict[str, str]


def promtool(folder: Path, *command: str) -> str:
    ended = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def alerts(*settings: str) -> list[Rule]:
    [group] = the("PrometheusRule", render("metrics.prometheusRule.enabled=true", *settings))["spec"]["groups"]
    rules: list[Rule] = group["rules"]
    return rules


def queries() -> dict[str, str]:
    """Every query of every dashboard, with values in place of Grafana's variables."""
    values = {"$__rate_interval": "5m", "$namespace": ".*", "$model_name": ".*"}
    found = {}
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                text = target["expr"]
                for variable, value in values.items():
                    text = text.replace(variable, value)
                found[f"{path.stem}: {panel['title']}: {target['legendFormat']}"] = text
    return found


def exported() -> set[str]:
    """The metrics of the operator and of the model server; the tests of the latter hold `ServedMetric` to it."""
    metrics = Metrics()
    metrics.watch_leader(lambda: True)
    metrics.watch_queue(lambda: 0)
    metrics.watch_jobs(list)
    metrics.watch_works(list)
    typed = re.findall(r"^# TYPE (\S+) (\S+)", metrics.text().decode(), re.MULTILINE) + [
        (name.value, "histogram" if name.endswith("_seconds") else "gauge") for name in ServedMetric
    ]
    parts = {"histogram": ("_bucket", "_count", "_sum")}
    return {name + part for name, kind in typed for part in parts.get(kind, ("",))}


@pytest.mark.parametrize("place", ["dashboards", "alerts"])
def test_every_metric_is_exported(place: str) -> None:
    texts = list(queries().values()) if place == "dashboards" else [rule["expr"] for rule in alerts()]
    named = {name for text in texts for name in re.findall(r"\b(?:trimtab|process)_\w+", text)}
    assert len(named) > 3
    assert named <= exported()


def test_prometheus_parses_every_query_of_the_dashboards(tmp_path: Path) -> None:
    rules = [{"record": f"query:{index}", "expr": text} for index, text in enumerate(queries().values())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool(tmp_path, "check", "rules", "rules.yaml")


def test_dashboards_are_collected_by_the_sidecars_label() -> None:
    on = ("metrics.dashboards.enabled=true", "metrics.dashboards.annotations.grafana_folder=ML")
    made = [item for item in render(*on) if item["kind"] == "ConfigMap"]
    assert [json.loads(text) for item in made for text in item["data"].values()] == [
        json.loads(path.read_text()) for path in sorted(DASHBOARDS)
    ]
    for item in made:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert item["metadata"]["annotations"] == {"grafana_folder": "ML"}
        assert len(json.dumps(item)) < 1_000_000  # of a ConfigMap's mebibyte


def test_prometheus_accepts_the_alerts(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": alerts()}]}))
    found = promtool(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    assert "SUCCESS: 5 rules found" in found


def failing(before: int, after: int, state: str = "WorkFailed") -> Series:
    """Jobs of namespace `ml` that failed, up to the 70th minute and from then on."""
    labels = f'job="trimtab",namespace="ml",state="{state}"'
    return {f"trimtab_jobs{{{labels}}}": f"{before}x70 {after}x60"}


def jobs(count: int, state: str) -> Series:
    return {f'trimtab_jobs{{job="trimtab",namespace="ml",state="{state}"}}': f"{count}x200"}


def turns(good: int, bad: int) -> Series:
    """A minute's turns; those that fail are timed too."""
    labels = f'{OURS},kind="OptimizationJob"'
    return {
        f"trimtab_reconcile_failures_total{{{labels}}}": f"0+{bad}x200",
        f"trimtab_reconcile_duration_seconds_count{{{labels}}}": f"0+{good + bad}x200",
    }


@pytest.mark.parametrize(
    ("series", "firing"),
    [
        pytest.param(UP, set(), id="all is well"),
        pytest.param({}, {"TrimtabOperatorDown"}, id="nothing is scraped"),
        pytest.param({f"trimtab_leader{{{OURS}}}": "1x80 0x120"}, {"TrimtabOperatorDown"}, id="nobody leads any more"),
        pytest.param(
            {f'trimtab_leader{{{OURS},pod="a"}}': "0x200", f'trimtab_leader{{{OURS},pod="b"}}': "1x200"},
            set(),
            id="one of two replicas leads",
        ),
        pytest.param(
            UP | {f"process_start_time_seconds{{{OURS}}}": "0x60 1x5 2x5 3x5 4x100"},
            {"TrimtabOperatorRestarting"},
            id="restarts",
        ),
        pytest.param(
            UP | {f"trimtab_queue_depth{{{OURS}}}": "0x50 40+1x100"}, {"TrimtabQueueGrowing"}, id="never idle"
        ),
        pytest.param(
            UP | {f"trimtab_queue_depth{{{OURS}}}": "90 0 0 70 0 80 0 0 0 90x5 0 90x100"},
            {"TrimtabQueueGrowing"},
            id="busy, then stuck",
        ),
        pytest.param(UP | {f"trimtab_queue_depth{{{OURS}}}": " ".join(["90x4 0"] * 30)}, set(), id="busy"),
        pytest.param(UP | turns(good=9, bad=1), set(), id="a few turns fail"),
        pytest.param(UP | turns(good=5, bad=5), {"TrimtabReconcileErrors"}, id="many turns fail"),
        pytest.param(UP | failing(5, 5), set(), id="jobs failed long ago"),
        pytest.param(UP | failing(5, 8), {"TrimtabJobsFailing"}, id="jobs fail now"),
        pytest.param(UP | failing(5, 8, "InvalidInput"), set(), id="their authors' errors"),
        pytest.param(UP | failing(5, 7), set(), id="two fail"),
        pytest.param(
            UP | jobs(9, "Published") | {'trimtab_jobs{job="trimtab",namespace="ml",state="WorkFailed"}': "_x70 3x60"},
            {"TrimtabJobsFailing"},
            id="the first ones that ever fail",
        ),
        pytest.param(
            {f"trimtab_leader{{{OURS}}}": "_x70 1x60", **failing(0, 9)}, set(), id="nobody counted an hour ago"
        ),
    ],
)
def test_when_alerts_fire(tmp_path: Path, series: Series, firing: set[str]) -> None:
    """Two hours at a sample a minute; asked at 95 minutes."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": alerts()}]}))
    asked = [
        {
            "expr": f'count(ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}}) or vector(0)',
            "eval_time": "95m",
            "exp_samples": [{"labels": "{}", "value": float(rule["alert"] in firing)}],
        }
        for rule in alerts()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    case = {"interval": "1m", "input_series": inputs, "promql_expr_test": asked}
    unit = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(unit))
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "test.yaml")


def test_states_in_alerts_exist() -> None:
    [states] = {states for rule in alerts() for states in re.findall(r'state=~"([^"]+)"', rule["expr"])}
    assert set(states.split("|")) <= {reason.value for reason in Reason}


def test_every_alert_has_its_runbook() -> None:
    sections = re.findall(r"^## (\S+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    rules = alerts("settings.runbooks=https://wiki.example/trimtab")
    names = [rule["alert"].lower() for rule in rules]
    assert sorted(sections) == sorted(names + [name.lower() for name in AlertName])
    assert [rule["annotations"]["runbook_url"] for rule in rules] == [
        f"https://wiki.example/trimtab#{n}" for n in names
    ]
    [default] = {rule["annotations"]["runbook_url"].partition("#")[0] for rule in alerts()}
    assert (ROOT / default).exists()
