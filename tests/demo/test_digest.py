"""The agent in the whole pipeline, on a small folder."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tailrace
import tailrace.demo
from tailrace.demo import digest as agent
from tailrace.demo.serving import serving
from tailrace.settings import Settings

NODES = ["Discover", "Read", "Analyse", "Rank", "Report"]
FILES = ["apple.txt", "banana.txt", "empty.txt", "image.png", "latin.txt"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two texts, an empty one, a binary, and one that is not UTF-8."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "apple.txt").write_text("apple apple banana\nApple cherry\n")
    (folder / "banana.txt").write_text("banana\nbanana\n\nx y 42")
    (folder / "empty.txt").write_text("")
    (folder / "image.png").write_bytes(b"\x89PNG\0")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    return folder


@pytest.fixture
def make_app(settings: Callable[..., Settings]) -> Callable[[], tailrace.App]:
    def make() -> tailrace.App:
        app = tailrace.App(settings())
        app.agent("digest")(agent.digest)
        return app

    return make


async def test_a_folder_becomes_a_report(make_app: Callable[[], tailrace.App], folder: Path, tmp_path: Path) -> None:
    """The five nodes in order, progress that ends at the whole, and numbers that can be checked by hand."""
    report = tmp_path / "out" / "report.md"
    async with serving(make_app()) as url, tailrace.Client(url) as client:
        run = await client.start("digest", {"path": str(folder), "report": str(report)})
        events = [event async for event in client.stream(run.run_id)]
        view = await client.get(run.run_id)
    assert [event.name for event in events if event.type == "NodeStarted"] == NODES
    assert [event.name for event in events if event.type == "NodeFinished"] == NODES
    progress = [event.data for event in events if event.name == "Progress"]
    assert progress == [
        *({"done": done, "of": 5, "file": file} for done, file in enumerate(FILES, 1)),
        {"done": 3, "of": 3, "file": "empty.txt"},
    ]
    assert view.state == "finished"
    assert view.output == {
        "report": str(report),
        "files": 3,
        "lines": 6,
        "words": 10,
        "skipped": {"binary": 1, "undecodable": 1},
    }
    text = report.read_text()
    assert text.startswith(
        f"# Digest of `{folder}`\n\n3 text files, 6 lines, 10 words.\nLeft out: 1 binary, 1 not UTF-8."
    )
    assert "| `apple.txt` | 2 | 5 | `apple`, `cherry`, `banana` |\n" in text
    assert "| `empty.txt` | 0 | 0 |  |\n" in text


async def test_a_resumed_run_repeats_no_finished_node_and_reports_the_same(
    make_app: Callable[[], tailrace.App], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stops in Analyse; the next one goes on there and reads no file again."""
    calls: Counter[str] = Counter()
    for name in ("discover", "measure_files"):
        monkeypatch.setattr(agent, name, _counted(calls, name, getattr(agent, name)))
    reached, release = threading.Event(), threading.Event()

    def hang(*_: object) -> list[Any]:
        reached.set()
        release.wait(30)
        return []

    report = tmp_path / "report.md"
    with monkeypatch.context() as first:
        first.setattr(agent, "_score", hang)
        async with serving(make_app()) as url, tailrace.Client(url) as client:
            run = await client.start("digest", {"path": str(folder), "report": str(report)})
            async for event in client.stream(run.run_id):
                if event.name == "Analyse":
                    break
        release.set()
    before = dict(calls)
    assert before == {"discover": 1, "measure_files": 5}
    (folder / "apple.txt").write_text("changed since it was read")
    async with serving(make_app()) as url, tailrace.Client(url) as client:
        events = [event async for event in client.stream(run.run_id)]
        view = await client.get(run.run_id)
    assert dict(calls) == before
    assert [event.name for event in events if event.type == "NodeStarted"] == [*NODES[:3], *NODES[2:]]
    assert [event.name for event in events if event.type == "NodeFinished"] == NODES
    assert [event.fn for event in events if event.type == "DebugTrace"] == ["run.resumed"]
    assert view.state == "finished"
    assert "| `apple.txt` | 2 | 5 | `apple`, `cherry`, `banana` |\n" in report.read_text()


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (None, "UsageError", "given no folder"),
        ({"path": ""}, "UsageError", "given no folder"),
        ({"path": "/there/is/none"}, "UsageError", "found nothing there; name a folder"),
        ({"path": "/", "report": 7}, "UsageError", "must be the path of a Markdown file"),
        ("EMPTY", "NoTextFiles", "found no text file (it is empty but for"),
        ("BINARY", "NoTextFiles", "found no text file (1 binary)"),
    ],
)
async def test_what_cannot_be_digested_fails_with_a_clear_error(
    make_app: Callable[[], tailrace.App], tmp_path: Path, given: Any, error: str, text: str
) -> None:
    """The run fails; the worker goes on."""
    if isinstance(given, str):
        if given == "BINARY":
            (tmp_path / "b").write_bytes(b"\0")
        given = {"path": str(tmp_path)}
    async with serving(make_app()) as url, tailrace.Client(url) as client:
        run = await client.start("digest", given)
        last = [event async for event in client.stream(run.run_id)][-1]
    assert (last.type, last.fn) == ("RunFailed", error)
    assert text in last.data["message"]


def test_the_module_serves_the_agent_by_itself() -> None:
    """``tailrace serve --app tailrace.demo``."""
    assert list(tailrace.demo.app.agents) == ["digest"]


@pytest.mark.parametrize("total", [1, 99, 100, 101, 2449, 20_000])
def test_progress_is_bounded_and_ends_at_the_whole(total: int) -> None:
    batches = list(agent._batches(total, 1))
    assert len(batches) <= agent.PROGRESS_MAX
    assert [position for batch in batches for position in batch] == list(range(total))


def _counted(calls: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        calls[name] += 1
        return function(*args)

    return call
