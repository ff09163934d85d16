"""The metrics of several processes in one answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.http import siblings
from tailrace.http.siblings import OF_ALL, Siblings, merged
from tailrace.telemetry import FirstNode, RunCreated
from tests.write_support import until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counted(runs: int, *, backlog: int = 0) -> PrometheusExporter:
    exporter = PrometheusExporter()
    for number in range(runs):
        exporter(RunCreated(f"r{number}", "a"))
        exporter(FirstNode(f"r{number}", 0.002))
    exporter.observe_database(backlog=backlog, oldest_unpublished_seconds=None, stalled=0, restored_events=0)
    return exporter


def samples(text: bytes) -> Samples:
    """Return every sample as Prometheus reads it; none may be there twice."""
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_every_series_of_every_process_is_there_under_its_number() -> None:
    """With its own labels, and each family described once."""
    texts = {"1": counted(3).render(), "0": counted(5).render()}
    text = merged(texts)
    found = samples(text)
    for process, runs in (("1", 3), ("0", 5)):
        label = ("process", process)
        assert found["tailrace_runs_started_total", (label,)] == runs
        assert found["tailrace_runs_finished_total", (label, ("state", "finished"))] == 0
        assert found["tailrace_time_to_first_node_seconds_bucket", (("le", "+Inf"), label)] == runs
        own = {key for key, _ in samples(texts[process]).items() if key[0] not in OF_ALL}
        assert {(name, tuple(sorted({*labels, label}))) for name, labels in own} <= found.keys()
    for line in {line for line in text.decode().splitlines() if line.startswith("#")}:
        assert text.decode().splitlines().count(line) == 1


def test_what_the_database_knows_is_told_once_by_the_process_that_answers() -> None:
    """N processes would else report N times the backlog."""
    alone = counted(0, backlog=7).render()
    assert {name for name, _ in samples(alone)} >= OF_ALL
    found = samples(merged({"0": alone, "1": counted(0, backlog=3).render()}))
    assert found["tailrace_outbox_backlog_events", ()] == 7
    assert [name for name, _ in found if name in OF_ALL] == sorted(OF_ALL, key=[n for n, _ in found].index)


async def told_of(asking: Siblings, runs: int, processes: set[str]) -> Samples:
    """Ask until exactly these processes have answered: one that is there may be too late, as one that is silent is."""

    async def found() -> Samples | None:
        answer = samples(await asking.metrics(counted(runs).render()))
        answered = {dict(labels).get("process") for name, labels in answer if name not in OF_ALL}
        return answer if answered == processes else None

    return await until(found)


async def test_a_process_asks_those_that_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is dead, or answers nothing, is left out, and one that was killed gets its place back."""
    monkeypatch.setattr(siblings, "ANSWER_SECONDS", 2.0)  # which one of them uses up each time
    first, second = Siblings(tmp_path, "0"), Siblings(tmp_path, "1")
    (tmp_path / "2").touch()  # what a killed process leaves
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(tmp_path / "3"))
    silent.listen()
    async with first.answering(counted(1).render), second.answering(counted(2).render):
        await told_of(first, 1, {"0", "1"})
        async with Siblings(tmp_path, "2").answering(counted(4).render):
            found = await told_of(second, 2, {"0", "1", "2"})
            assert found["tailrace_runs_started_total", (("process", "2"),)] == 4
    silent.close()
    assert samples(await first.metrics(counted(1).render()))["tailrace_runs_started_total", (("process", "0"),)] == 1
