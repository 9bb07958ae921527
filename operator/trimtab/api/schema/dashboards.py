"""Grafana's dashboards: a table of panels, dressed up as the JSON that Grafana imports.

That JSON is some twenty lines a panel, of which a title, a unit and the queries are ours. A query sums over pods, since
a dashboard is about the service; `max` comes first where two leaders count the same for a moment. A test runs every
query through promtool and looks each metric up in what operator and model server export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimtab.api.names import ServedMetric

WIDTH, HEIGHT = 12, 8
_PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """A graph over time: `queries` are PromQL by legend."""

    title: str
    unit: str
    queries: dict[str, str]
    text: str = ""


@dataclass(frozen=True)
class Dashboard:
    """`variable` is a label that its reader may narrow the panels to, and `of` the metric that knows its values."""

    name: str
    title: str
    variable: str
    of: str
    panels: tuple[Panel, ...]


def _quantiles(histogram: str, by: str, selector: str = "") -> dict[str, str]:
    rate = f"sum by (le, {by}) (rate({histogram}_bucket{selector}[$__rate_interval]))"
    return {
        f"P{quantile * 100:.0f} {{{{{by}}}}}": f"histogram_quantile({quantile}, {rate})" for quantile in (0.5, 0.99)
    }


_JOBS = '{namespace=~"$namespace"}'
# Every process that Prometheus scrapes exports process_…: these are the operator's.
_OPERATORS = "and on (job, instance) trimtab_leader"
_MODEL = '{model_name=~"$model_name"}'

OPERATOR = Dashboard(
    "operator",
    "Trimtab / Operator",
    "namespace",
    "trimtab_jobs",
    (
        Panel(
            "OptimizationJobs by state",
            "short",
            {"{{state}}": f"sum by (state) (max by (namespace, state) (trimtab_jobs{_JOBS}))"},
            "The reason of each job's summary condition, as in `kubectl get`.",
        ),
        Panel(
            "Candidates by outcome",
            "short",
            {"{{outcome}}": f"sum by (outcome) (max by (namespace, outcome) (trimtab_trials{_JOBS}))"},
        ),
        Panel(
            "The longest that a pod has run",
            "s",
            {"{{stage}}": f"max by (stage) (trimtab_longest_running_seconds{_JOBS})"},
            "Which one it is, and how far, says `kubectl get optimizationjobs.trimtab.dev -o wide`.",
        ),
        Panel(
            "How far the longest pods are, at the least",
            "percentunit",
            {"{{stage}}": f"min by (stage) (trimtab_longest_running_steps_done{_JOBS})"},
            "The share of its steps that it has behind it, once it has run for a minute.",
        ),
        Panel(
            "Objects waiting for a worker",
            "short",
            {"waiting": "max(trimtab_queue_depth)"},
            "Near zero but for moments: see the runbook of TrimtabQueueGrowing.",
        ),
        Panel("Duration of a reconcile", "s", _quantiles("trimtab_reconcile_duration_seconds", "kind")),
        Panel(
            "Reconciles",
            "ops",
            {
                "{{kind}}": "sum by (kind) (rate(trimtab_reconcile_duration_seconds_count[$__rate_interval]))",
                "{{kind}} put back": "sum by (kind) (rate(trimtab_reconcile_failures_total[$__rate_interval]))",
            },
        ),
        Panel(
            "Calls of the Kubernetes API",
            "ops",
            {"{{verb}} {{resource}}": "sum by (verb, resource) (rate(trimtab_api_requests_total[$__rate_interval]))"},
        ),
        Panel(
            "Answers that are errors",
            "ops",
            {"{{code}}": 'sum by (code) (rate(trimtab_api_requests_total{code!~"2.."}[$__rate_interval]))'},
            "0 is no answer at all; a few 409 are normal.",
        ),
        Panel(
            "Alerts received",
            "short",
            {"all namespaces": "sum(increase(trimtab_alerts_received_total[$__rate_interval]))"},
        ),
        Panel("Memory of the operator", "bytes", {"resident": f"max(process_resident_memory_bytes {_OPERATORS})"}),
        Panel(
            "CPU of the operator",
            "short",
            {"CPUs": f"sum(rate(process_cpu_seconds_total[$__rate_interval]) {_OPERATORS})"},
        ),
    ),
)
MODELS = Dashboard(
    "models",
    "Trimtab / Served models",
    "model_name",
    ServedMetric.MODEL_INFO,
    (
        Panel(
            "Requests",
            "reqps",
            {
                "{{model_name}} {{code}}": "sum by (model_name, code) "
                f"(rate({ServedMetric.REQUESTS}{_MODEL}[$__rate_interval]))"
            },
        ),
        Panel(
            "What is served",
            "short",
            {
                "{{model_name}} {{engine}} {{digest}}": "count by (model_name, engine, digest) "
                f"({ServedMetric.MODEL_INFO}{_MODEL})"
            },
            "Pods by the digest of the model they serve.",
        ),
        Panel("Duration of a request", "s", _quantiles(ServedMetric.REQUEST_DURATION, "model_name", _MODEL)),
        Panel(
            "Duration of the model's execution", "s", _quantiles(ServedMetric.INFERENCE_DURATION, "model_name", _MODEL)
        ),
        Panel(
            "Drift",
            "short",
            {
                "{{model_name}} score": f"max by (model_name) ({ServedMetric.DRIFT_SCORE}{_MODEL})",
                "{{model_name}} threshold": f"min by (model_name) ({ServedMetric.DRIFT_THRESHOLD}{_MODEL})",
            },
            "There is no score until a window of rows is full.",
        ),
        Panel(
            "Captured for a recalibration",
            "short",
            {
                "{{model_name}} rows in the window": f"sum by (model_name) ({ServedMetric.DRIFT_WINDOW_ROWS}{_MODEL})",
                "{{model_name}} captures that are whole": f"sum by (model_name) ({ServedMetric.CAPTURE_READY}{_MODEL})",
            },
        ),
    ),
)
DASHBOARDS = (OPERATOR, MODELS)


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """What Grafana imports. The ID is fixed, so that a new version replaces the old one."""
    return {
        "uid": f"trimtab-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["trimtab"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _variable(dashboard)]},
        "panels": [_panel(panel, index) for index, panel in enumerate(dashboard.panels)],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "name": dashboard.variable,
        "type": "query",
        "datasource": _PROMETHEUS,
        "query": f"label_values({dashboard.of}, {dashboard.variable})",
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
    }


def _panel(panel: Panel, index: int) -> dict[str, Any]:
    row, column = divmod(index, 24 // WIDTH)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _PROMETHEUS,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": _PROMETHEUS}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }
