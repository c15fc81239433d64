"""A log sorted out of memory: ids as numbers, events by user and time, each column a mapped file.

DuckDB numbers the users and items in the order of their ids, sorts the events by these numbers
(which is faster than sorting text), and hands them over in batches that go straight to disk.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int32, Int64, Shaped
from tqdm import tqdm

from idbert.inputs.flat_arrays import (
    FlatWriter,
    event_chunks,
    open_flat,
    user_chunks,
    write_flat,
)
from idbert.inputs.interactions import CheckedEvents
from idbert.inputs.special_tokens import positions_of
from idbert.inputs.staging import TABLE, Staging
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT

BATCH_ROWS = 500_000
"""Events that are handed from DuckDB to the files at once."""

LARGE_LOG = 5_000_000
"""From so many events on, a bar on a terminal shows how many are sorted."""

_TYPES = {ITEM: "<i4", TIME: "<i8", BEHAVIOUR: "<i4", WEIGHT: "<f4"}
_NUMBERED = (USER, ITEM, BEHAVIOUR)


@dataclass(frozen=True, eq=False)
class SortedEvents:
    """All events of a log, sorted by user, time, and place in the source; arrays are mapped.

    Attributes:
        users: user ids in their order.
        items: item ids in their order; an event's item is a place in it.
        behaviours: their names in alphabetical order, likewise; None: the log has none.
        offsets: U + 1 bounds of the users' events.
        items_T: the item of each event.
        times_T: microseconds since 1970-01-01 UTC, or positions.
        behaviours_T: the behaviour of each event.
        weights_T: as in the log.
    """

    users: pa.Array
    items: pa.Array
    behaviours: pa.Array | None
    offsets: Int64[np.ndarray, "_"]
    items_T: Int32[np.ndarray, "T"]
    times_T: Int64[np.ndarray, "T"]
    behaviours_T: Int32[np.ndarray, "T"] | None
    weights_T: Float32[np.ndarray, "T"] | None

    @classmethod
    def open(cls, folder: Path) -> "SortedEvents":
        """Map the files that `write_sorted` wrote into `folder`."""

        def optional(name: str) -> Shaped[np.ndarray, "_"] | None:
            path = folder / f"{name}.npy"
            return open_flat(path) if path.exists() else None

        ids = {name: folder / f"{name}.arrow" for name in _NUMBERED}
        return cls(
            users=_read_ids(ids[USER]),
            items=_read_ids(ids[ITEM]),
            behaviours=_read_ids(ids[BEHAVIOUR]) if ids[BEHAVIOUR].exists() else None,
            offsets=np.load(folder / "offsets.npy", allow_pickle=False),
            items_T=open_flat(folder / f"{ITEM}.npy"),
            times_T=open_flat(folder / f"{TIME}.npy"),
            behaviours_T=optional(BEHAVIOUR),
            weights_T=optional(WEIGHT),
        )

    def columns(self) -> dict[str, Shaped[np.ndarray, "T"]]:
        """Return the columns of the events that the log has, by our names."""
        columns = {
            ITEM: self.items_T,
            TIME: self.times_T,
            BEHAVIOUR: self.behaviours_T,
            WEIGHT: self.weights_T,
        }
        return {name: values for name, values in columns.items() if values is not None}


def write_sorted(events: Staging, checked: CheckedEvents, folder: Path) -> None:
    """Sort staged events and write their columns into an empty folder.

    Args:
        events: the rows of a source, in its order.
        checked: how their columns are read.
        folder: where the files are to lie.
    """
    connection = events.connection
    tables = [name for name in _NUMBERED if name in checked.expressions]
    for name in tables:
        _number(events, name, checked.expressions[name])
    counts = connection.sql(f"SELECT num_events FROM {_table(USER)} ORDER BY code").fetchnumpy()
    offsets = np.concatenate([[0], np.cumsum(counts["num_events"], dtype=np.int64)])
    np.save(folder / "offsets.npy", offsets, allow_pickle=False)
    for name in tables:
        _write_ids(events, name, folder / f"{name}.arrow")

    values = {
        name: f"{_table(name)}.code" if name in tables else sql
        for name, sql in checked.expressions.items()
    }
    columns = ", ".join(f"{value} AS {name}" for name, value in values.items())
    joins = " ".join(
        f"JOIN {_table(name)} ON {_table(name)}.id = {checked.expressions[name]}" for name in tables
    )
    names = [name for name in values if name != USER]
    rows = connection.sql(
        f"SELECT {', '.join(names)} FROM (SELECT {columns}, {TABLE}.rowid AS place FROM {TABLE} "
        f"{joins}) ORDER BY {USER}, {TIME}, place"
    )
    length = int(offsets[-1])
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(FlatWriter(folder / f"{name}.npy", length, _TYPES[name]))
            for name in names
        }
        hidden = True if length < LARGE_LOG else None
        bar = stack.enter_context(
            tqdm(desc="sort", total=length, unit=" events", disable=hidden, leave=False)
        )
        for batch in rows.to_arrow_reader(BATCH_ROWS):
            for name, file in files.items():
                file.write(batch.column(name).to_numpy())
            bar.update(batch.num_rows)


def write_kept(events: SortedEvents, keep_T: Bool[np.ndarray, "T"], folder: Path) -> None:
    """Write the events where `keep_T` is true into an empty folder; their users with them."""
    lengths_U = np.add.reduceat(keep_T, events.offsets[:-1], dtype=np.int64)
    kept_U = lengths_U > 0
    offsets = np.concatenate([[0], np.cumsum(lengths_U[kept_U])])
    np.save(folder / "offsets.npy", offsets, allow_pickle=False)
    _save_ids(events.users.filter(pa.array(kept_U)), folder / f"{USER}.arrow")
    _save_ids(events.items, folder / f"{ITEM}.arrow")
    if events.behaviours is not None:
        _save_ids(events.behaviours, folder / f"{BEHAVIOUR}.arrow")
    for name, values_T in events.columns().items():
        pieces = (values_T[chunk][keep_T[chunk]] for chunk in event_chunks(len(keep_T)))
        write_flat(folder / f"{name}.npy", int(offsets[-1]), _TYPES[name], pieces)


def write_merged(blocks: Sequence[Path], folder: Path) -> None:
    """Write the events of several folders, no user of which is in two, as one.

    Memory holds the ids and a few numbers a user; of each column a chunk at a time.

    Args:
        blocks: folders that `write_sorted` wrote.
        folder: an empty folder, which becomes what `write_sorted` makes of all rows together.
    """
    lengths = [np.diff(np.load(block / "offsets.npy", allow_pickle=False)) for block in blocks]
    users = pa.chunked_array([_read_ids(block / f"{USER}.arrow") for block in blocks])
    order_U = pc.sort_indices(users).to_numpy().astype(np.int64)
    lengths_U = np.concatenate(lengths)[order_U]
    offsets = np.concatenate([[0], np.cumsum(lengths_U, dtype=np.int64)])
    np.save(folder / "offsets.npy", offsets, allow_pickle=False)
    _save_ids(users.take(pa.array(order_U)).combine_chunks(), folder / f"{USER}.arrow")
    for name, dtype in _TYPES.items():
        files = [block / f"{name}.npy" for block in blocks]
        if not files[0].exists():
            continue
        codes = None
        if name in _NUMBERED:
            codes = _merge_ids([block / f"{name}.arrow" for block in blocks], folder)
        pieces = _interleaved(files, lengths, order_U, offsets, codes)
        write_flat(folder / f"{name}.npy", int(offsets[-1]), dtype, pieces)


def _merge_ids(files: Sequence[Path], folder: Path) -> list[Int32[np.ndarray, "_"]]:
    """Write all ids that occur in the files, and return the places in it of each file's ids."""
    encoded = pa.chunked_array([_read_ids(file) for file in files]).dictionary_encode()
    ids = encoded.chunk(0).dictionary  # all chunks share it
    order_N = pc.sort_indices(ids).to_numpy()
    _save_ids(ids.take(pa.array(order_N)), folder / files[0].name)
    ranks_N = np.empty(len(ids), np.int32)
    ranks_N[order_N] = np.arange(len(ids), dtype=np.int32)
    return [ranks_N[chunk.indices.to_numpy()] for chunk in encoded.chunks]


def _interleaved(
    files: Sequence[Path],
    lengths: Sequence[Int64[np.ndarray, "_"]],
    order_U: Int64[np.ndarray, "U"],
    offsets: Int64[np.ndarray, "_"],
    codes: Sequence[Int32[np.ndarray, "_"]] | None,
) -> Iterator[np.ndarray]:
    """Yield a column of all blocks in the order of the users, a chunk of users at a time.

    The users of a block are in that order too, so that a chunk takes one slice of each block.

    Args:
        files: the column in each block.
        lengths: the numbers of events of each block's users.
        order_U: the users, who are numbered from block to block.
        offsets: U + 1 bounds of the result.
        codes: for each block what its numbers become; None: they stay.
    """
    flats = [open_flat(file) for file in files]
    ends = np.cumsum([len(block) for block in lengths])
    places = [0] * len(files)
    for users in user_chunks(offsets):
        by_block = np.argsort(order_U[users], kind="stable")
        lengths_U = np.diff(offsets[users.start : users.stop + 1])
        sizes = np.bincount(
            np.searchsorted(ends, order_U[users], side="right"), lengths_U, len(files)
        ).astype(np.int64)
        slices = []
        for block, size in enumerate(sizes.tolist()):
            piece = flats[block][places[block] : places[block] + size]
            slices.append(piece if codes is None else codes[block][piece])
            places[block] += size
        starts_U = np.empty(len(lengths_U), np.int64)
        starts_U[by_block] = np.cumsum(lengths_U[by_block]) - lengths_U[by_block]
        yield np.concatenate(slices)[positions_of(starts_U, lengths_U)]


def _number(events: Staging, name: str, expression: str) -> None:
    """Make a table of the distinct values of a column, numbered in their order, with counts."""
    events.connection.execute(
        f"CREATE TABLE {_table(name)} AS SELECT id, num_events, "
        "CAST(row_number() OVER (ORDER BY id) - 1 AS INTEGER) AS code "
        f"FROM (SELECT {expression} AS id, count(*) AS num_events FROM {TABLE} GROUP BY id)"
    )


def _write_ids(events: Staging, name: str, path: Path) -> None:
    rows = events.connection.sql(f"SELECT id FROM {_table(name)} ORDER BY code")
    reader = rows.to_arrow_reader(BATCH_ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _save_ids(ids: pa.Array, path: Path) -> None:
    table = pa.table({"id": ids})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_ids(path: Path) -> pa.Array:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("id").combine_chunks()


def _table(name: str) -> str:
    return f"numbered_{name}"
