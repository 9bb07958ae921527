"""The Prometheus rule of a monitor: what must be true of the served model's metrics for an alert.

A rule watches the model and not a pod: pods come and go, and with them their series, and neither may start `for` again
or fire a second alert. The server exports score and threshold side by side, so the comparison is Prometheus's and
each pod is held to its own profile. Percentiles are taken over the summed buckets of all pods; an average of
percentiles means nothing.
"""

from __future__ import annotations

from typing import Any

from trimtab.api.monitor import Action, DriftTrigger, LatencyPercentile, LatencyTrigger, ModelMonitor, Trigger
from trimtab.api.names import AlertLabel, AlertName, ServedMetric
from trimtab.api.quantities import decimal, parse_duration

QUANTILES = {LatencyPercentile.P50: 0.5, LatencyPercentile.P95: 0.95, LatencyPercentile.P99: 0.99}
BEYOND = 10
"""Requests in the window that must be slower than the percentile: of fewer, one slow request decides."""

Rule = dict[str, Any]


def rule_file(monitor: ModelMonitor, runbooks: str) -> Rule:
    """A rule file as Prometheus loads it: one group, with one alert per trigger. `runbooks` is where alerts link to."""
    metadata = monitor.metadata
    rules = [_rule(monitor, trigger, index, runbooks) for index, trigger in enumerate(monitor.spec.triggers)]
    return {"groups": [{"name": f"trimtab/{metadata.namespace}/{metadata.name}", "rules": rules}]}


def action_for(monitor: ModelMonitor, alert: str) -> Action:
    """Fresh traffic repairs drift; a model that became slow is optimized again on the data it had."""
    return monitor.spec.action if alert == AlertName.MODEL_DRIFT_DETECTED else Action.REOPTIMIZE


def prometheus_duration(text: str) -> str:
    """Prometheus takes whole numbers only, and no range of zero: `1.5s` is `1500ms`."""
    milliseconds = max(1, round(parse_duration(text) * 1000))
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def _rule(monitor: ModelMonitor, trigger: Trigger, index: int, runbooks: str) -> Rule:
    if trigger.drift:
        rule = _drift_rule(monitor, trigger.drift)
    else:
        assert trigger.latency
        rule = _latency_rule(monitor, trigger.latency)
    alert = rule["alert"]
    labels = {
        AlertLabel.SEVERITY: "warning",
        AlertLabel.NAMESPACE: monitor.metadata.namespace,
        AlertLabel.MONITOR: monitor.metadata.name,
        AlertLabel.MONITOR_UID: monitor.metadata.uid,
        AlertLabel.ACTION: action_for(monitor, alert).value,
        # Tells two latency triggers of one monitor apart, in Alertmanager too.
        AlertLabel.TRIGGER: f"{trigger.kind}-{index}",
    }
    runbook = {"runbook_url": f"{runbooks}#{alert.lower()}"}
    return rule | {
        "labels": {label.value: value for label, value in labels.items()},
        "annotations": rule["annotations"] | runbook,
    }


def _drift_rule(monitor: ModelMonitor, trigger: DriftTrigger) -> Rule:
    model = monitor.spec.target.model
    series = _selector(monitor)
    drifted = f"{ServedMetric.DRIFT_SCORE}{series} > {ServedMetric.DRIFT_THRESHOLD}{series}"
    if action_for(monitor, AlertName.MODEL_DRIFT_DETECTED) == Action.RECALIBRATE:
        # The job reads the capture, so it must be complete before there is a job.
        drifted += f" and {ServedMetric.CAPTURE_READY}{series} == 1"
    return {
        "alert": AlertName.MODEL_DRIFT_DETECTED.value,
        "expr": f"max by (model_name) ({drifted})",
        "for": prometheus_duration(trigger.sustained),
        "annotations": {
            "summary": f"The traffic of model {model} has drifted.",
            "description": f"The inputs or predictions of model {model} differ from those it was published for: drift "
            f'score {{{{ $value | printf "%.2f" }}}}, above its calibrated threshold for {trigger.sustained}.',
        },
    }


def _latency_rule(monitor: ModelMonitor, trigger: LatencyTrigger) -> Rule:
    model, percentile = monitor.spec.target.model, trigger.percentile
    series, window = _selector(monitor), prometheus_duration(trigger.window)
    duration, quantile = ServedMetric.REQUEST_DURATION, QUANTILES[percentile]
    rates = f"sum by (le, model_name) (rate({duration}_bucket{series}[{window}]))"
    requests = f"sum by (model_name) (increase({duration}_count{series}[{window}]))"
    bound, floor = decimal(parse_duration(trigger.max)), round(BEYOND / (1 - quantile))
    return {
        "alert": AlertName.MODEL_LATENCY_HIGH.value,
        "expr": f"histogram_quantile({quantile}, {rates}) > {bound} and {requests} >= {floor}",
        "for": prometheus_duration(trigger.sustained),
        "annotations": {
            "summary": f"Model {model} answers slower than promised.",
            "description": f"The {percentile.value} of the requests to model {model} over {trigger.window} is "
            f"{{{{ $value | humanizeDuration }}}}, above {trigger.max} for {trigger.sustained}.",
        },
    }


def _selector(monitor: ModelMonitor) -> str:
    """The model's series; the namespace label is there where Prometheus discovered the pods in Kubernetes."""
    return f'{{model_name="{monitor.spec.target.model}",namespace=~"{monitor.metadata.namespace}|"}}'
