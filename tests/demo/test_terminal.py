"""``tailrace demo`` from start to its last line."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import tailrace
from tailrace.demo import terminal, watching
from tailrace.demo.terminal import run_demo
from tailrace.demo.watching import Cut, watch
from tailrace.errors import UsageError
from tailrace.model.event import Event
from tailrace.settings import Settings
from tailrace.store.runs import Runs
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reports go to the test's folder, and a run may take its time to go on while its stream is cut."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda _: str(tmp_path / "data"))
    monkeypatch.setattr(watching, "CUT_MAX_SECONDS", PATIENCE_SECONDS)
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(60):
        (folder / f"text{number:02}.txt").write_text(f"common special{number}\n" * (number + 1))
    (folder / "evil\x1b[2J.txt").write_text("escape")
    return folder


def read(report: Path) -> bytes:
    return report.read_bytes()


async def test_the_demo_cuts_its_stream_and_loses_nothing(
    folder: Path, data_dir: Path, settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line proves it, the report is where it says, and a pipe gets plain lines."""
    assert await run_demo(folder, json_output=False, settings=settings()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out
    lines = out.splitlines()
    proof = re.fullmatch(r"Run (\S+) finished: events seen (\d+), lost 0, twice 0", lines[-1])
    assert proof is not None
    cut = re.search(r"cut after seq (\d+); (\d+) more events were written meanwhile; resuming from seq (\d+)", out)
    assert cut is not None
    assert 1 < int(cut[1]) == int(cut[3]) < int(proof[2])
    assert int(cut[2]) > 0
    report = Path(lines[-2].removeprefix("Report: "))
    assert report.is_relative_to(data_dir / "reports")
    assert read(report).startswith(b"# Digest of ")
    assert out.count("Progress") <= 20
    assert re.search(r"^ +\d+ +\d+\.\d{3} s  NodeStarted   Discover$", out, re.MULTILINE)


async def test_json_is_one_document_and_two_digests_of_a_folder_are_the_same(
    folder: Path, settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the document is on stdout."""
    documents, reports = [], []
    for _ in range(2):
        assert await run_demo(folder, json_output=True, settings=settings()) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.count("\n") == 1
        documents.append(json.loads(out))
        reports.append(read(Path(documents[-1]["report"])))
    assert list(documents[0]) == ["runId", "state", "events", "lost", "twice", "resumedFrom", "report"]
    assert (documents[0]["state"], documents[0]["lost"], documents[0]["twice"]) == ("finished", 0, 0)
    assert 1 < documents[0]["resumedFrom"] < documents[0]["events"]
    assert documents[0]["runId"] != documents[1]["runId"]
    assert reports[0] == reports[1]


async def test_a_run_that_fails_is_told_and_exits_1(
    tmp_path: Path, settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert await run_demo(tmp_path / "empty", json_output=True, settings=settings()) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["state"], document["lost"], document["report"]) == ("failed", 0, None)
    assert "found no text file" in err
    assert await run_demo(tmp_path / "empty", json_output=False, settings=settings()) == 1
    out, _ = capsys.readouterr()
    assert re.search(
        r"The run failed: .* found no text file .*\nRun \S+ failed: events seen 5, lost 0, twice 0\n$", out
    )


async def test_a_missing_folder_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "serving", None)
    with pytest.raises(UsageError, match="found nothing there"):
        await run_demo(tmp_path / "gone", json_output=False, settings=Settings(bus_url="memory://"))


async def test_an_interrupted_demo_leaves_no_run_behind(
    folder: Path,
    settings: Callable[..., Settings],
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C cancels the task, and with it the run: no later worker takes it over."""
    seen = asyncio.Event()
    monkeypatch.setattr("tailrace.demo.screen.Screen.event", lambda *_: seen.set())
    monkeypatch.setattr(watching, "CANCEL_MAX_SECONDS", PATIENCE_SECONDS)
    task = asyncio.create_task(run_demo(folder, json_output=False, settings=settings()))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    listed, _ = await runs.list(state=None, agent=None, limit=10, cursor=None)
    assert [run.state for run in listed] == ["cancelled"]
    assert capsys.readouterr().out.endswith("Stopped before the end of the run\n")


def _event(seq: int, kind: str = "DebugTrace", **fields: Any) -> Event:
    return Event.model_validate(
        {"runId": "r", "seq": seq, "ts": seq, "type": kind, "v": 1, "source": "outbox"} | fields
    )


class _Broken:
    """A server whose stream loses seq 4, repeats seq 2 after it is resumed, and ends."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def stream(self, run_id: str, *, from_seq: int) -> AsyncIterator[Event]:
        self.asked.append(from_seq)
        if len(self.asked) == 1:
            yield _event(1, "RunStarted")
            yield _event(2, "Custom", name="Progress", data={"done": 1, "of": 2})
            yield _event(3)
        else:
            for seq in (2, 3):
                yield _event(seq)
            yield _event(5, "RunFinished")

    async def get(self, run_id: str) -> Any:
        return SimpleNamespace(state="finished", last_seq=5, output={}, error=None)


async def test_a_stream_that_loses_and_repeats_is_not_proven() -> None:
    """The demo can say that Tailrace is broken."""
    client, cuts = _Broken(), list[Cut]()
    outcome = await watch(cast("tailrace.Client", client), "r", on_event=lambda _: None, on_cut=cuts.append)
    assert client.asked == [0, 2]
    assert cuts == [Cut(seq=2, missed=3)]
    assert (outcome.events, outcome.lost, outcome.twice, outcome.resumed_from) == (5, 1, 1, 2)
    assert not outcome.proven


async def test_a_stream_that_falls_silent_is_counted_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that cannot end would prove nothing."""

    class Silent(_Broken):
        async def stream(self, run_id: str, *, from_seq: int) -> AsyncIterator[Event]:
            yield _event(1, "RunStarted")
            await asyncio.Event().wait()

    monkeypatch.setattr(watching, "SILENCE_MAX_SECONDS", 0.05)
    client = cast("tailrace.Client", Silent())
    outcome = await watch(client, "r", on_event=lambda _: None, on_cut=lambda _: None)
    assert (outcome.events, outcome.lost, outcome.proven) == (1, 4, False)
