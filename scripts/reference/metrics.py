"""Every metric, from the registry that ``/metrics`` is rendered from."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric

from scripts.reference.page import NOTE, table, words
from tailrace.exporters.prometheus import PrometheusExporter


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{name_of(metric)}`", metric.type, _labels(metric), words(metric.documentation, metric.name))
        for metric in PrometheusExporter().registry.collect()
    ]
    return (
        f"{NOTE}# Metrics\n\nServed at `/metrics` by a process of any role. No run id is ever a label. With "
        "`tailrace serve --processes N` each series also bears the `process` that counted it "
        "([processes](processes.md)).\n\n"
    ) + table(("metric", "type", "labels", "meaning"), rows)


def name_of(metric: Metric) -> str:
    """Return the name to ask Prometheus for."""
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def _labels(metric: Metric) -> str:
    # `le` is a histogram's own.
    return ", ".join(f"`{name}`" for name in sorted({label for of in metric.samples for label in of.labels} - {"le"}))
