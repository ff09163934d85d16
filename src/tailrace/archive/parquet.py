"""The form of an object: rows of ``run_events`` as Parquet, by run and seq, in small row groups.

One run is whole in one object and its seqs have no gap, so its event ``seq`` is the row ``first_row + seq - 1``, and
the footer tells which row group has that row.
"""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tailrace.model.event import StoredEvent
from tailrace.store.archives import Placed, Row

# What one read decodes: small enough for a page of a stream, large enough for the footer to stay small.
GROUP_ROWS = 5000
GROUP_BYTES = 2**20

_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("v", pa.int16(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("fn", pa.string()),
        pa.field("data", pa.string()),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("published_at", _TIME),
        pa.field("created_at", _TIME, nullable=False),
    ]
)
_TIMES = ("published_at", "created_at")
_WORDS = ["run_id", "type", "source", "name", "fn"]


class Digest:
    """Counts and hashes rows, run by run; rows of a run come together, in any number of pieces."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[int, list[int], Any]] = {}
        self.rows = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Take the next rows."""
        for run_id, part in groupby(rows, key=itemgetter(0)):
            _, events, sha256 = self._runs.setdefault(run_id, (self.rows, [0], hashlib.sha256()))
            # Each row is a JSON array, which ends by itself: how rows were cut into pieces does not show.
            texts = [orjson.dumps(row[1:]) for row in part]
            sha256.update(b"".join(texts))
            events[0] += len(texts)
            self.rows += len(texts)

    def placed(self) -> list[Placed]:
        """Return each run with its first row, number of events and hash."""
        return [Placed(run, first, events[0], sha.digest()) for run, (first, events, sha) in self._runs.items()]


class Spool:
    """An object in the making: a file that has no name, so that a process that is killed leaves none behind."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(prefix="tailrace-archive-")  # noqa: SIM115 - closed by `close`
        self.digest = Digest()
        self.data_bytes = 0
        self._writer = pq.ParquetWriter(
            self.file,
            SCHEMA,
            compression="zstd",
            use_dictionary=_WORDS,
            write_statistics=["run_id", "seq"],
        )

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows as a row group."""
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), row_group_size=len(rows))
        self.digest.add(rows)
        self.data_bytes += sum(len(row.data) for row in rows if row.data is not None)

    def finish(self) -> None:
        """Write the footer and go back to the file's beginning."""
        self._writer.close()
        self.file.seek(0)

    def close(self) -> None:
        """Give the file up."""
        self._writer.close()
        self.file.close()


class Footer:
    """What an object says about its row groups."""

    def __init__(self, file: Any) -> None:
        self.metadata = pq.read_metadata(file)
        if not self.metadata.schema.to_arrow_schema().equals(SCHEMA):
            raise pa.ArrowInvalid("it has not the columns of an archive")
        counts = (self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups))
        self._starts = list(accumulate(counts, initial=0))

    @property
    def groups(self) -> int:
        """How many row groups there are."""
        return len(self._starts) - 1

    def group_of(self, row: int) -> int:
        """Return the row group that has a row."""
        return bisect_right(self._starts, row) - 1

    def start(self, group: int) -> int:
        """Return the first row of a row group."""
        first: int = self._starts[group]
        return first

    def read(self, file: Any, group: int) -> pa.Table:
        """Read a row group."""
        return pq.ParquetFile(file, metadata=self.metadata, pre_buffer=True).read_row_group(group, use_threads=False)


def events_of(table: pa.Table) -> list[StoredEvent]:
    """Return the events in a piece of an object; the columns that only a row has cost as much again."""
    columns: Iterable[list[Any]] = (table[name].to_pylist() for name in StoredEvent._fields)
    return list(map(StoredEvent._make, zip(*columns, strict=True)))


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows of a piece of an object."""
    return list(_rows(table))


def _rows(table: pa.Table) -> Iterator[Row]:
    columns: Iterable[list[Any]] = (
        (table[name].cast(pa.int64()) if name in _TIMES else table[name]).to_pylist() for name in SCHEMA.names
    )
    return map(Row._make, zip(*columns, strict=True))
