"""A log of parquet parts checked and sorted by many machines, with the result that one would have.

Each part is asked where it lies. Then its events go to blocks by a hash of the user; each block is
sorted as a small log of its own is, and the blocks are merged into one log.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pyarrow as pa
from tqdm import tqdm

from idbert.errors import ConfigError, DataError
from idbert.files import written_aside
from idbert.inputs.columns import Kind, Part
from idbert.inputs.formats import PARQUET, path_literal
from idbert.inputs.interactions import CheckedEvents, InteractionSettings, check_events
from idbert.inputs.sorted_events import BATCH_ROWS, LARGE_LOG, write_merged, write_sorted
from idbert.inputs.staging import TABLE, SourceRows, connected, load_failure, staged
from idbert.ray_cluster import CPUS_A_TASK, RaySettings, check_shared, cluster, in_workers
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT

logger = logging.getLogger(__name__)

MOST_BLOCKS = 512
"""Blocks are merged with a file of each open, and processes may open 1,024 by default."""

EVENTS_A_BLOCK = 4_000_000
"""Of `blocks` None: a worker sorts so many in a few hundred MB."""

_BLOCK, _PLACE, _EVENTS = "block", "place", "events"
_MERGED: Mapping[str, Callable[[list[int]], int]] = {"count": sum, "max": max, "bool_and": min}
"""How the aggregates of parts make up that of all rows."""


@dataclass(frozen=True)
class RaySortSettings(RaySettings):
    """Which Ray sorts the events, and in how many blocks."""

    blocks: int | None = None
    """Blocks that the users are shared out to; each is sorted in the memory of one worker. Default:
    4 million events a block. The result is the same by any number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None and not 1 <= self.blocks <= MOST_BLOCKS:
            raise ConfigError(f"ray.blocks is {self.blocks}; it must be from 1 to {MOST_BLOCKS}.")


@dataclass(frozen=True)
class RaySort:
    """Checks and sorts events by Ray; see `preparation.Sort`.

    All machines of the cluster must see the parts and the folders under the same paths.
    """

    settings: RaySortSettings = RaySortSettings()

    def __call__(
        self,
        source: str,
        parts: Sequence[Part],
        settings: InteractionSettings,
        spill: Path,
        folder: Path,
    ) -> bool:
        """Check and sort; the blocks lie in `spill` meanwhile.

        Raises:
            DataError: for the reasons that sorting on one machine has, or a worker died.
            ConfigError: a part is no parquet, or a machine does not see the folders.
            MissingExtraError: Ray is not installed.
        """
        wrong = next((part for part in parts if Path(part.name).suffix not in PARQUET), None)
        if wrong is not None:
            raise ConfigError(
                f"--engine ray reads parquet parts, and {wrong.name} is none. Write the log as "
                "parquet, or leave --engine out."
            )
        files = in_workers(part.name for part in parts)
        spill, folder = in_workers([spill, folder])
        with cluster(self.settings) as ray:
            check_shared(ray, files, spill)
            rows = PartedRows(ray, source, _numbered(parts, files), settings)
            checked = check_events(rows, settings)
            number = self.settings.blocks or -(-rows.num_rows // EVENTS_A_BLOCK)
            blocks = _sort_blocks(ray, rows, checked, min(number, MOST_BLOCKS), spill)
        write_merged(blocks, folder)
        return checked.times_are_real


class PartedRows(SourceRows):
    """The rows of parquet parts where they lie: a question goes to one task a part.

    Args:
        ray: connected; its `remote` and `get` are called.
        source: what errors call the whole source.
        parts: whose readers number the rows; see `_numbered`.
        settings: columns, and the memory that a worker may use.

    Raises:
        DataError: parts disagree about kinds, one cannot be read, or there are no rows.
    """

    def __init__(
        self, ray: Any, source: str, parts: Sequence[Part], settings: InteractionSettings
    ) -> None:
        super().__init__(source, parts, settings.columns())
        self.parts = parts
        self.memory_limit = settings.memory_limit
        self._ray = ray
        self._task = ray.remote(num_cpus=CPUS_A_TASK)(ask_part)
        counts = [int(answer[0][0]) for answer in self._ask(f"SELECT count(*) FROM {TABLE}")]
        self._starts = [sum(counts[:place]) for place in range(len(counts))]
        self.num_rows = sum(counts)
        self._refuse_no_rows()

    @property
    def starts(self) -> list[int]:
        """The place of each part's first row in the source."""
        return self._starts

    def scalar(self, expression: str) -> int:
        """Return a number computed over all rows, cut to a whole one; 0 for null."""
        merge = _MERGED[expression.partition("(")[0]]
        answers = self._ask(f"SELECT {expression} FROM {TABLE}")
        found = [answer[0][0] for answer in answers if answer[0][0] is not None]
        return int(merge(found)) if found else 0

    def first_rows(self, query: str, limit: int) -> list[tuple[int, str | None]]:
        """Return the first rows of a query for a place and a text, in the order of places."""
        answers = self._ask(f"{query} ORDER BY rowid LIMIT {limit}")
        rows = [
            (start + place, value)
            for start, answer in zip(self._starts, answers, strict=True)
            for place, value in answer
        ]
        return rows[:limit]

    def _ask(self, query: str) -> list[list[tuple[Any, ...]]]:
        """Return the rows that a query has in each part."""
        tasks = [self._task.remote(part, query, self.memory_limit) for part in self.parts]
        answers: list[list[tuple[Any, ...]]] = self._ray.get(tasks)
        return answers


def ask_part(part: Part, query: str, memory_limit: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query over one part's table `events`, whose columns bear our names.

    Raises:
        DataError: the part cannot be read.
    """
    with connected(part.name, memory_limit) as connection:
        _open_part(connection, part)
        try:
            rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
        except (duckdb.OutOfMemoryException, duckdb.IOException):
            raise
        except duckdb.Error as error:
            raise DataError(load_failure(part, error)) from error
    return rows


def events_of_part(
    number: pa.Table,
    *,
    parts: Sequence[Part],
    starts: Sequence[int],
    checked: CheckedEvents,
    blocks: int,
    memory_limit: str,
) -> Iterator[pa.Table]:
    """Yield the checked events of one part, each with its block and its place in the source.

    Args:
        number: one row, with the number of the part.
        parts: all of them.
        starts: the place of each part's first row.
        checked: how the columns are read.
        blocks: how many blocks there are.
        memory_limit: of DuckDB.

    Raises:
        DataError: the part cannot be read.
    """
    place = number.column("id")[0].as_py()
    columns = [f"{sql} AS {name}" for name, sql in checked.expressions.items()]
    query = (
        f"SELECT CAST(hash({checked.expressions[USER]}) % {blocks} AS INTEGER) AS {_BLOCK}, "
        f"rowid + {starts[place]} AS {_PLACE}, {', '.join(columns)} FROM {TABLE}"
    )
    with connected(parts[place].name, memory_limit) as connection:
        _open_part(connection, parts[place])
        try:
            for batch in connection.sql(query).to_arrow_reader(BATCH_ROWS):
                yield pa.Table.from_batches([batch])
        except (duckdb.OutOfMemoryException, duckdb.IOException):
            raise
        except (duckdb.Error, OSError) as error:
            raise DataError(load_failure(parts[place], error)) from error


def sort_block(
    rows: pa.Table, *, kinds: Mapping[str, Kind], real: bool, folder: Path, memory_limit: str
) -> pa.Table:
    """Write the events of one block sorted, as a folder inside `folder`; whole or not at all.

    Args:
        rows: of the block, in any order.
        kinds: of value in each column.
        real: whether times are real.
        folder: of all blocks.
        memory_limit: of DuckDB.

    Returns:
        One row: the name of the block's folder, and the number of its events.
    """
    path = folder / f"block-{rows.column(_BLOCK)[0].as_py():05d}"
    events = rows.sort_by(_PLACE).select(list(kinds))
    names = {name: name for name in kinds}
    part = Part(path.name, "block", names, kinds, events)
    with written_aside(path) as aside:
        aside.mkdir()
        with staged(path.name, [part], names, memory_limit, folder) as staging:
            write_sorted(staging, CheckedEvents(names, real), aside)
    return pa.table({_BLOCK: [path.name], _EVENTS: [events.num_rows]})


def _sort_blocks(
    ray: ModuleType, rows: PartedRows, checked: CheckedEvents, blocks: int, folder: Path
) -> list[Path]:
    """Share the events out to blocks and sort each; return the blocks' folders."""
    limit = rows.memory_limit
    cut = partial(
        events_of_part,
        parts=rows.parts,
        starts=rows.starts,
        checked=checked,
        blocks=blocks,
        memory_limit=limit,
    )
    sort = partial(
        sort_block,
        kinds=_kinds_read(rows, checked),
        real=checked.times_are_real,
        folder=folder,
        memory_limit=limit,
    )
    numbers = ray.data.range(len(rows.parts), override_num_blocks=len(rows.parts))
    events = numbers.map_batches(cut, batch_size=1, batch_format="pyarrow", num_cpus=CPUS_A_TASK)
    grouped = events.groupby(_BLOCK, num_partitions=blocks)
    done = grouped.map_groups(sort, batch_format="pyarrow", num_cpus=CPUS_A_TASK)
    hidden = True if rows.num_rows < LARGE_LOG else None
    counts: dict[str, int] = {}
    with tqdm(desc="sort", total=rows.num_rows, unit=" events", disable=hidden, leave=False) as bar:
        for row in done.iter_rows():
            counts[row[_BLOCK]] = row[_EVENTS]
            bar.update(row[_EVENTS])
    if sum(counts.values()) != rows.num_rows:
        raise DataError(
            f"{rows.source}: {rows.num_rows:,} events were counted and {sum(counts.values()):,} "
            "sorted: the files have changed meanwhile. Run the same command again."
        )
    logger.info("%d events sorted in %d blocks", rows.num_rows, len(counts))
    return [folder / name for name in sorted(counts)]


def _kinds_read(rows: PartedRows, checked: CheckedEvents) -> dict[str, Kind]:
    """Return the kinds of the columns as they are read: text ids may have become so just now."""
    query = f"DESCRIBE SELECT {', '.join(checked.expressions.values())} FROM {TABLE}"
    types = [row[1] for row in ask_part(rows.parts[0], query, rows.memory_limit)]
    kinds: dict[str, Kind] = {TIME: "integers", BEHAVIOUR: "text", WEIGHT: "floats"}
    for name, found in zip(checked.expressions, types, strict=True):
        if name in (USER, ITEM):
            kinds[name] = "text" if found == "VARCHAR" else "integers"
    return {name: kinds[name] for name in checked.expressions}


def _numbered(parts: Sequence[Part], files: Sequence[Path]) -> list[Part]:
    """Return parts that workers find, and whose readers number the rows."""
    return [
        replace(part, reader=f"read_parquet({path_literal(file)}, file_row_number=true)")
        for part, file in zip(parts, files, strict=True)
    ]


def _open_part(connection: Any, part: Part) -> None:
    """Give the part's columns our names, as a table that is read where it lies."""
    connection.execute(f"SET threads = {CPUS_A_TASK}")
    columns = ", ".join(f"{sql} AS {name}" for name, sql in part.expressions.items())
    connection.execute(
        f"CREATE VIEW {TABLE} AS SELECT file_row_number AS rowid, {columns} FROM {part.reader}"
    )
