"""The processes that ``tailrace serve --processes`` runs on one port, as far as they must know of each other.

A scrape of ``/metrics`` reaches whichever process takes the connection, and each counts for itself.  So the one that is
asked asks the others, over sockets in a folder of their parent's, and answers for all: every series of a process bears
its number as the label ``process``, under which Prometheus sees the counters of a process that was started again as it
sees those of any restart.  Summed here they would fall, and a fall of a sum is counted as new events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

# A process that takes longer is frozen or just starting; what the others have counted is worth having meanwhile.
ANSWER_SECONDS = 1.0
# What the database knows is the same whoever asks: told once, by the process that answers.
OF_ALL = frozenset(
    {
        "tailrace_archive_restored_events",
        "tailrace_outbox_backlog_events",
        "tailrace_outbox_oldest_unpublished_seconds",
        "tailrace_runs_stalled",
    }
)


class Siblings:
    """One of several processes; ``name`` is its number, ``folder`` holds the socket of each and is the parent's."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    @asynccontextmanager
    async def answering(self, render: Callable[[], bytes]) -> AsyncIterator[None]:
        """Tell the others what this process has counted, inside the block."""

        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                writer.write(render())
                await writer.drain()
            writer.close()

        path = self._folder / self._name
        path.unlink(missing_ok=True)  # of one that was killed
        server = await asyncio.start_unix_server(answer, path)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)

    async def metrics(self, own: bytes) -> bytes:
        """Return the exposition text of all processes that answer; ``own`` is this one's."""
        names = sorted({path.name for path in self._folder.iterdir()} - {self._name}, key=int)
        texts = await asyncio.gather(*(self._ask(name) for name in names))
        found = {name: text for name, text in zip(names, texts, strict=True) if text}
        return merged({self._name: own, **found})

    async def _ask(self, name: str) -> bytes:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._folder / name)
                try:
                    return await reader.read()
                finally:
                    writer.close()
        return b""


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Return one exposition text of several, given by the name of their process, the one that answers first."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    answering = next(iter(texts))
    for process, text in texts.items():
        family = ""
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                heads.setdefault(family, [])
                samples.setdefault(family, [])
            if line.startswith("#"):
                if line not in heads[family]:
                    heads[family].append(line)
            elif family in OF_ALL:
                if process == answering:
                    samples[family].append(line)
            else:
                samples[family].append(_labelled(line, process))
    lines = [line for family, head in heads.items() for line in (*head, *samples[family])]
    return "".join(f"{line}\n" for line in lines).encode()


def _labelled(sample: str, process: str) -> str:
    brace, space = sample.find("{"), sample.find(" ")
    if 0 <= brace < space:
        return f'{sample[: brace + 1]}process="{process}",{sample[brace + 1 :]}'
    return f'{sample[:space]}{{process="{process}"}}{sample[space:]}'
