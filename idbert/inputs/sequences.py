"""What every user did, oldest event first: flat arrays, with one slice a user."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Int64

from idbert.errors import ConfigError, DataError
from idbert.files import written_aside
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import UNK
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT, Interactions

logger = logging.getLogger(__name__)

FORMAT = b"1"
_FILE = "sequences.arrow"
_METADATA = b"idbert.sequences"
_ARRAYS = ("items", "times", "behaviours", "weights")


@dataclass(frozen=True)
class SequenceSettings:
    """How much of a user's history becomes a sequence."""

    max_length: int | None = 200
    """Events kept of each user, the newest ones; null: all of them. A next-item model with L
    positions can use L + 1 events: the first is only an input, the last only a target."""
    min_length: int = 1
    """Users with fewer known events are left out; 0 keeps everybody."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1, or null.")
        if self.min_length < 0:
            raise ConfigError(f"min_length is {self.min_length}; it must be at least 0.")
        if self.max_length is not None and self.min_length > self.max_length:
            raise ConfigError(
                f"min_length {self.min_length} is above max_length {self.max_length}: "
                "no sequence can be that long."
            )


@dataclass(frozen=True, eq=False)
class Sequences:
    """Flat arrays of all events; user u's are `offsets[u] : offsets[u + 1]`, oldest first.

    Arrays may be read-only views of a file (see `open`).

    Attributes:
        users: user ids, string or int64.
        items: vocabulary rows.
        offsets: U + 1 bounds, from 0 to T.
        times: microseconds since 1970-01-01 UTC; None where the log only has an order.
        behaviours: segment ids of the vocabulary's behaviours; None where it has none.
        weights: of each event in the loss, mean 1; None where the log has none.
        num_dropped_events: events left out because they were older than the newest `max_length`.
        num_unknown_events: events left out because their item is not in the vocabulary.
    """

    users: pa.Array
    items: Int32[np.ndarray, "T"]
    offsets: Int64[np.ndarray, "_"]
    times: Int64[np.ndarray, "T"] | None = None
    behaviours: Int32[np.ndarray, "T"] | None = None
    weights: Float32[np.ndarray, "T"] | None = None
    num_dropped_events: int = field(default=0, kw_only=True)
    num_unknown_events: int = field(default=0, kw_only=True)

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> Int64[np.ndarray, "U"]:
        """The number of events of each user."""
        return np.diff(self.offsets)

    @classmethod
    def from_histories(cls, histories: Iterable[Sequence[int] | np.ndarray]) -> "Sequences":
        """Make sequences of lists of vocabulary rows; the users are numbered from 0.

        Raises:
            DataError: a history holds something else than rows.
        """
        arrays = [np.asarray(history) for history in histories]
        for number, array in enumerate(arrays):
            if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
                raise DataError(
                    f"history {number} is not a list of vocabulary rows (integers); "
                    "Vocabulary.rows turns item ids into rows."
                )
        lengths = np.array([array.size for array in arrays], dtype=np.int64)
        items = np.concatenate([np.empty(0), *arrays], dtype=np.int32, casting="unsafe")
        return cls(pa.array(np.arange(len(arrays))), items, _offsets(lengths))

    def newest(self, max_length: int) -> "Sequences":
        """Return what is left of each user's events when only the newest `max_length` are kept."""
        lengths_U = np.minimum(self.lengths, max_length)
        keep_T = _newest(np.ones(len(self.items), dtype=bool), self.lengths, max_length)
        flat = {name: getattr(self, name) for name in _ARRAYS}
        return replace(
            self,
            offsets=_offsets(lengths_U),
            num_dropped_events=self.num_dropped_events + int((~keep_T).sum()),
            **{name: array[keep_T] for name, array in flat.items() if array is not None},
        )

    def save(self, folder: str | Path) -> None:
        """Write `sequences.arrow` into `folder`, whole or not at all.

        The file is an uncompressed Arrow IPC file with one row a user and a list column for each
        array, which any Arrow reader opens.
        """
        offsets = pa.array(self.offsets)
        columns = {"user": self.users}
        for name in _ARRAYS:
            flat = getattr(self, name)
            if flat is not None:
                columns[name] = pa.LargeListArray.from_arrays(offsets, pa.array(flat))
        batch = pa.record_batch(columns).replace_schema_metadata(
            {
                _METADATA: FORMAT,
                b"num_dropped_events": str(self.num_dropped_events),
                b"num_unknown_events": str(self.num_unknown_events),
            }
        )
        with (
            written_aside(Path(folder) / _FILE) as path,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    @classmethod
    def open(cls, folder: str | Path) -> "Sequences":
        """Map the sequences that `save` wrote into `folder`; pages are read when they are used.

        Raises:
            DataError: the file is missing, cut off, or does not hold sequences.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise DataError(f"{path} is missing: {folder} is not a folder of sequences.")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{path} is cut off or is no Arrow file. Copy it again, or build it anew."
            ) from error
        metadata = reader.schema.metadata or {}
        if metadata.get(_METADATA) != FORMAT or reader.num_record_batches != 1:
            raise DataError(f"{path} does not hold idbert sequences of format {FORMAT.decode()}.")
        batch = reader.get_batch(0)
        flat = {
            name: batch.column(name).values.to_numpy()
            for name in _ARRAYS
            if name in batch.schema.names
        }
        return cls(
            batch.column("user"),
            offsets=batch.column("items").offsets.to_numpy(),
            num_dropped_events=int(metadata[b"num_dropped_events"]),
            num_unknown_events=int(metadata[b"num_unknown_events"]),
            **flat,
        )


def build_sequences(
    interactions: Interactions,
    vocabulary: Vocabulary,
    settings: SequenceSettings = SequenceSettings(),  # noqa: B008 (frozen)
) -> Sequences:
    """Turn a table of interactions into one sequence of vocabulary rows a user.

    Events whose item is not in the vocabulary are left out, as they are when recommending; then
    only the newest `max_length` events of a user are kept. Both are counted and logged. Weights are
    divided by their mean over the kept events, so that they do not change the learning rate.

    Args:
        interactions: sorted by user and time, as `read_interactions` returns them.
        vocabulary: of the same log, or of the run whose model goes on training.
        settings: lengths.

    Raises:
        DataError: item ids of another type than the vocabulary's; behaviours missing or unknown;
            weights that are all zero.
    """
    rows_T = vocabulary.rows(interactions.column(ITEM))
    known_T = rows_T != UNK
    before = interactions.user_offsets()
    known_U = np.diff(np.concatenate([[0], np.cumsum(known_T)])[before])
    kept_U = known_U >= settings.min_length
    keep_T = known_T & np.repeat(kept_U, np.diff(before))
    num_dropped = 0
    if settings.max_length is not None:
        newest_T = _newest(keep_T, np.diff(before), settings.max_length)
        num_dropped = int(keep_T.sum() - newest_T.sum())
        keep_T = newest_T
        known_U = np.minimum(known_U, settings.max_length)

    others = [name for name in interactions.table.column_names if name not in (USER, ITEM)]
    table = interactions.table.select(others).filter(pa.array(keep_T))
    sequences = Sequences(
        interactions.column(USER).take(pa.array(before[:-1][kept_U])).combine_chunks(),
        rows_T[keep_T].astype(np.int32),
        _offsets(known_U[kept_U]),
        table.column(TIME).to_numpy() if interactions.times_are_real else None,
        _behaviours(table, vocabulary),
        _weights(table),
        num_dropped_events=num_dropped,
        num_unknown_events=int((~known_T).sum()),
    )
    is_cut = settings.max_length is not None or settings.min_length > 0
    logger.log(
        logging.INFO if is_cut or sequences.num_unknown_events else logging.DEBUG,
        "%d sequences, %d events; left out: %d events older than the newest %s of a user, "
        "%d events of unknown items, %d users with fewer than %d events",
        len(sequences),
        len(sequences.items),
        sequences.num_dropped_events,
        settings.max_length or "(all)",
        sequences.num_unknown_events,
        int((~kept_U).sum()),
        settings.min_length,
    )
    return sequences


def _newest(
    keep_T: Bool[np.ndarray, "T"], lengths_U: Int64[np.ndarray, "U"], max_length: int
) -> Bool[np.ndarray, "T"]:
    """Keep of each user only the last `max_length` of the events that are kept so far."""
    seen_T = np.cumsum(keep_T)
    last_T = np.repeat(seen_T[np.cumsum(lengths_U) - 1], lengths_U)
    newest_T: np.ndarray = keep_T & (last_T - seen_T < max_length)
    return newest_T


def _offsets(lengths_U: Int64[np.ndarray, "U"]) -> Int64[np.ndarray, "U+1"]:
    """Return the bounds of slices of the given lengths."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_U, dtype=np.int64)])


def _behaviours(table: pa.Table, vocabulary: Vocabulary) -> Int32[np.ndarray, "T"] | None:
    if not vocabulary.behaviours:
        return None
    if BEHAVIOUR not in table.column_names:
        raise DataError(
            f"the vocabulary was made with behaviours ({', '.join(vocabulary.behaviours)}), "
            f"but the interactions have no column '{BEHAVIOUR}'. "
            "Name it with --data.behaviour_column."
        )
    return vocabulary.behaviour_rows(table.column(BEHAVIOUR)).astype(np.int32)


def _weights(table: pa.Table) -> Float32[np.ndarray, "T"] | None:
    if WEIGHT not in table.column_names or table.num_rows == 0:
        return None
    weights: np.ndarray = table.column(WEIGHT).to_numpy().astype(np.float32)
    mean = weights.mean(dtype=np.float64)
    if not mean > 0:
        raise DataError(
            f"column '{WEIGHT}': the mean weight is {mean:g}; it must be above 0 to train on."
        )
    return weights / np.float32(mean)
