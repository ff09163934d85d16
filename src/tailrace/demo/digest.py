"""The agent ``digest``: Discover, Read, Analyse, Rank, Report over every text file of a folder.

Each node is one kept step, so a run that another worker takes over goes on with the node it was in, and repeats
nothing of those before it.  Every result is bounded far below the 16 MiB of a kept step: ``files.FILES_MAX`` bounds
the list of files, ``READ_MAX_BYTES`` what is counted in all of them together.

While a node works it emits Custom events ``Progress`` with ``{"done", "of", "file"}``.  Plain Python runs in threads,
a batch at a time, so that the worker goes on serving its other runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from tailrace.demo.files import (
    Found,
    NoTextFiles,
    Unreadable,
    checked_folder,
    discover,
    measure_files,
    report_path,
    write_report,
)
from tailrace.demo.ranking import Digested, Ranking, rank
from tailrace.demo.report import SKIPPED_NAMES, render
from tailrace.demo.terms import Measure, as_scores, document_frequencies, telling_terms
from tailrace.errors import UsageError
from tailrace.worker.run import Run

# Most Progress events of one node: as many as a bar of a terminal has steps.
PROGRESS_MAX = 100
# What the terms of all files may take together, and those of one file: some 150 terms.
READ_MAX_BYTES = 8 * 2**20
FILE_TERMS_MAX_BYTES = 2048
TERMS_PER_FILE = 5
# Scoring takes some 0.1 ms per file; fewer files than this are not worth an event.
ANALYSE_BATCH_MIN = 50


class Reading(TypedDict):
    """What was counted: the text files with their measures, in one order, and what was left out, by reason."""

    paths: list[str]
    measures: list[Measure]
    skipped: dict[str, int]


class Asked(NamedTuple):
    """The run's input, checked."""

    folder: str
    report: Path


async def digest(run: Run) -> dict[str, Any]:
    """Digest a folder and write a report on it.

    Input ``{"path": folder, "report": file.md}``; without ``report`` it is written among the user's data.

    :returns: ``{"report": path, "files", "lines", "words", "skipped": {reason: files}}``.
    :raises UsageError: there is no such folder, it has no text file, or the report cannot be written.
    """
    asked = asked_of(run.input)
    found: Found = await run.step("Discover", discover, asked.folder, str(asked.report))
    read: Reading = await run.step("Read", _read, run, asked.folder, found)
    terms: list[Any] = await run.step("Analyse", _analyse, run, read)
    texts = [
        Digested(path, measured, as_scores(scores))
        for path, measured, scores in zip(read["paths"], read["measures"], terms, strict=True)
    ]
    ranking: Ranking = await run.step("Rank", rank, texts)
    await run.step("Report", _report, asked, ranking, texts, read["skipped"])
    return {
        "report": str(asked.report),
        "files": ranking["files"],
        "lines": ranking["lines"],
        "words": ranking["words"],
        "skipped": read["skipped"],
    }


def asked_of(given: object) -> Asked:
    """Return the run's input, checked; raise ``UsageError`` when it is not acceptable."""
    if not isinstance(given, dict) or not isinstance(path := given.get("path"), str) or not path:
        raise UsageError(
            'the agent digest was given no folder; its input is {"path": FOLDER, "report": FILE.md or none}'
        )
    report = given.get("report")
    if report is not None and not isinstance(report, str):
        raise UsageError("the input's `report` must be the path of a Markdown file")
    folder = checked_folder(path)
    return Asked(str(folder), report_path(folder, report))


async def _read(run: Run, folder: str, found: Found) -> Reading:
    files, skipped = found["files"], Counter(found["skipped"])
    terms_max_bytes = min(FILE_TERMS_MAX_BYTES, READ_MAX_BYTES // max(1, len(files)))
    read: Reading = {"paths": [], "measures": [], "skipped": {}}
    for batch in _batches(len(files), 1):
        paths = files[batch.start : batch.stop]
        results: list[Measure | Unreadable] = await asyncio.to_thread(measure_files, folder, paths, terms_max_bytes)
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, str):
                skipped[result] += 1
            else:
                read["paths"].append(path)
                read["measures"].append(result)
        await run.emit("Progress", {"done": batch.stop, "of": len(files), "file": paths[-1]})
    read["skipped"] = dict(sorted(skipped.items()))
    if not read["paths"]:
        raise NoTextFiles(_no_text_files(folder, read["skipped"]))
    return read


async def _analyse(run: Run, read: Reading) -> list[list[tuple[str, float]]]:
    measures, texts = read["measures"], len(read["measures"])
    frequencies = await asyncio.to_thread(document_frequencies, measures)
    scores: list[list[tuple[str, float]]] = []
    for batch in _batches(texts, ANALYSE_BATCH_MIN):
        part = measures[batch.start : batch.stop]
        scores += await asyncio.to_thread(_score, part, frequencies, texts)
        await run.emit("Progress", {"done": batch.stop, "of": texts, "file": read["paths"][batch.stop - 1]})
    return scores


def _score(part: Sequence[Measure], frequencies: Counter[str], texts: int) -> list[list[tuple[str, float]]]:
    return [telling_terms(measured, frequencies, texts=texts, limit=TERMS_PER_FILE) for measured in part]


def _report(asked: Asked, ranking: Ranking, texts: Sequence[Digested], skipped: dict[str, int]) -> None:
    write_report(asked.report, render(asked.folder, ranking, texts, skipped))


def _batches(total: int, batch_min: int) -> Iterator[range]:
    """Cut ``total`` into at most ``PROGRESS_MAX`` pieces of one size, each of at least ``batch_min``."""
    size = max(batch_min, -(-total // PROGRESS_MAX))
    return (range(start, min(start + size, total)) for start in range(0, total, size))


def _no_text_files(folder: str, skipped: dict[str, int]) -> str:
    left_out = ", ".join(f"{count} {SKIPPED_NAMES[reason]}" for reason, count in skipped.items())
    found = left_out or "it is empty but for what is never read, such as .git"
    return f"tried to digest {folder!r} and found no text file ({found}); name a folder with some"
