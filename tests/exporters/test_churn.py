"""The most reconnects of one run: exact within the minute, and bounded in memory."""

from __future__ import annotations

from tailrace.exporters.churn import COUNT_MAX, RUNS_MAX, WINDOW_SECONDS, Churn
from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.telemetry import StreamOpened


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_only_the_last_minute_counts_and_only_one_run() -> None:
    """Two runs are not added up, and what is a minute old is gone."""
    clock = Clock()
    churn = Churn(clock)
    for run_id in ("a", "b", "a", "a"):
        churn.add(run_id)
        clock.now += 10
    assert churn.most() == 3
    clock.now = 1000 + WINDOW_SECONDS + 1
    assert churn.most() == 2
    clock.now += WINDOW_SECONDS
    assert churn.most() == 0
    assert len(churn) == 0


def test_memory_is_bounded_and_the_run_that_flaps_is_not_the_one_forgotten() -> None:
    """However many runs reconnect once between two reconnects of the one."""
    churn = Churn(Clock())
    for number in range(5 * RUNS_MAX):
        churn.add(f"r{number}")
        if number % (RUNS_MAX // 2) == 0:
            churn.add("flaps")
    assert len(churn) == RUNS_MAX
    assert churn.most() == 10
    for _ in range(10 * COUNT_MAX):
        churn.add("flaps")
    assert churn.most() == COUNT_MAX


def test_the_metric_has_no_run_in_a_label() -> None:
    """First connections are none; the gauge is read at the scrape."""
    metrics = PrometheusExporter()
    metrics(StreamOpened("secret-run", 0, False))
    for _ in range(4):
        metrics(StreamOpened("secret-run", 3, True))
    text = metrics.render().decode()
    assert "\ntailrace_stream_reconnects_max 4.0\n" in text
    assert "secret-run" not in text
