"""What Prometheus sees of a served model.

Histograms are classic, for which Prometheus needs no option. Their buckets begin at 50 µs, because optimized models
answer faster than the 5 ms where the usual ones begin, and hold the round numbers that latencies are promised in.
Gauges are read from the served model at scrape time, and one without a value has no series: so there is no score while
the window fills, and an alert on drift resolves when a new model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trimtab.api.names import ServedMetric
from trimtab_jobs.serve.served import Served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = ["model_name"]
BUCKETS = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75),
    *(1.0, 2.0, 5.0, 10.0),
)


class Metrics:
    """The metrics of model `name`; `served` gives what is served at the moment."""

    def __init__(self, name: str, served: Callable[[], Served | None]) -> None:
        self._registry = CollectorRegistry()
        self._name = name
        ProcessCollector(registry=self._registry)
        self._registry.register(_Gauges(name, served))
        self._requests = Counter(
            ServedMetric.REQUESTS, "Inference requests by HTTP status.", [*LABELS, "code"], registry=self._registry
        )
        requests = self._histogram(ServedMetric.REQUEST_DURATION, "From a request's headers to its answer.")
        self.request_duration = requests
        self.inference_duration = self._histogram(ServedMetric.INFERENCE_DURATION, "The model's execution alone.")

    def answered(self, code: int, seconds: float) -> None:
        """Count a request. Only answers with a result are timed: refusals are fast, and would hide slow answers."""
        self._requests.labels(self._name, str(code)).inc()
        if code == 200:
            self.request_duration.observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(name, help_text, LABELS, buckets=BUCKETS, registry=self._registry).labels(self._name)


class _Gauges(Collector):
    def __init__(self, name: str, served: Callable[[], Served | None]) -> None:
        self._name = name
        self._served = served

    def collect(self) -> Iterator[GaugeMetricFamily]:
        served = self._served()
        if served is None:
            return
        labels = {"digest": served.revision.digest, "engine": served.revision.engine.value}
        yield self._gauge(ServedMetric.MODEL_INFO, "What is served; always 1.", 1, **labels)
        yield self._gauge(ServedMetric.DRIFT_THRESHOLD, "The drift score that means drift.", served.threshold)
        yield self._gauge(ServedMetric.DRIFT_WINDOW_ROWS, "Rows in the drift window.", served.window_rows)
        if served.score is not None:
            yield self._gauge(ServedMetric.DRIFT_SCORE, "Largest debiased PSI of a watched column.", served.score)
        if served.capture is not None:
            ready = served.capture.ready
            yield self._gauge(ServedMetric.CAPTURE_READY, "1 once drifted traffic is captured whole.", ready)

    def _gauge(self, name: str, help_text: str, value: float, **labels: str) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, help_text, labels=[*LABELS, *labels])
        family.add_metric([self._name, *labels.values()], value)
        return family
