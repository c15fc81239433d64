"""What every user did, oldest event first, in flat arrays: one slice a user.

The arrays are in memory, or are views of a file that is mapped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Int64

from idbert.errors import DataError
from idbert.files import written_aside
from idbert.inputs.flat_arrays import event_chunks, user_chunks
from idbert.inputs.special_tokens import positions_of

FORMAT = b"1"
_FILE = "sequences.arrow"
_METADATA = b"idbert.sequences"
_ARRAYS = ("items", "times", "behaviours", "weights")


@dataclass(frozen=True, eq=False, init=False)
class Sequences:
    """Flat arrays of all events; user u's are `starts[u] : stops[u]`, oldest first.

    In `windows` a user has several sequences, and U is their number.

    Most sequences lie end to end, and `offsets` bounds them. Slices of a larger log have gaps
    between them, which hold events of the same users that are not to be seen: `offsets` refuses to
    speak of them, and `packed` copies what is seen. They are made by giving `stops`, and the U
    starts as `offsets`. Arrays may be read-only views of a file (see `open`).

    Attributes:
        users: user ids, string or int64.
        items: vocabulary rows.
        starts: where each user's events begin.
        stops: where they end.
        times: microseconds since 1970-01-01 UTC; None where the log only has an order.
        behaviours: segment ids of the vocabulary's behaviours; None where it has none.
        weights: of each event in the loss, mean 1; None where the log has none.
        num_dropped_events: events left out because they were older than the newest `max_length`.
        num_unknown_events: events left out because their item is not in the vocabulary.
    """

    users: pa.Array
    items: Int32[np.ndarray, "T"]
    starts: Int64[np.ndarray, "U"]
    stops: Int64[np.ndarray, "U"]
    times: Int64[np.ndarray, "T"] | None
    behaviours: Int32[np.ndarray, "T"] | None
    weights: Float32[np.ndarray, "T"] | None
    num_dropped_events: int
    num_unknown_events: int
    _bounds: Int64[np.ndarray, "_"] | None

    def __init__(
        self,
        users: pa.Array,
        items: Int32[np.ndarray, "T"],
        offsets: Int64[np.ndarray, "_"],
        times: Int64[np.ndarray, "T"] | None = None,
        behaviours: Int32[np.ndarray, "T"] | None = None,
        weights: Float32[np.ndarray, "T"] | None = None,
        *,
        stops: Int64[np.ndarray, "U"] | None = None,
        num_dropped_events: int = 0,
        num_unknown_events: int = 0,
    ) -> None:
        values = {
            "users": users,
            "items": items,
            "starts": offsets[:-1] if stops is None else offsets,
            "stops": offsets[1:] if stops is None else stops,
            "times": times,
            "behaviours": behaviours,
            "weights": weights,
            "num_dropped_events": num_dropped_events,
            "num_unknown_events": num_unknown_events,
            "_bounds": offsets if stops is None else None,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> Int64[np.ndarray, "U"]:
        """The number of events of each user."""
        lengths: np.ndarray = self.stops - self.starts
        return lengths

    @property
    def offsets(self) -> Int64[np.ndarray, "_"]:
        """U + 1 bounds, from 0 to T, of sequences that lie end to end.

        Raises:
            DataError: they are slices of a larger log.
        """
        if self._bounds is None:
            raise DataError(
                "these sequences are slices of a larger log, with other events between them. Use "
                "starts and stops, or packed()."
            )
        return self._bounds

    def packed(self) -> "Sequences":
        """Return the same sequences end to end; the flat arrays are copied if there are gaps."""
        if self._bounds is not None:
            return self
        bounds = offsets_of(self.lengths)
        flat = {name: getattr(self, name) for name in _ARRAYS}
        flat = {
            name: None if array is None else np.empty(bounds[-1], array.dtype)
            for name, array in flat.items()
        }
        for users in user_chunks(bounds):
            places_T = positions_of(self.starts[users], self.lengths[users])
            for name, array in flat.items():
                if array is not None:
                    array[bounds[users.start] : bounds[users.stop]] = getattr(self, name)[places_T]
        return Sequences(
            self.users,
            offsets=bounds,
            num_dropped_events=self.num_dropped_events,
            num_unknown_events=self.num_unknown_events,
            **flat,
        )

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
        return cls(pa.array(np.arange(len(arrays))), items, offsets_of(lengths))

    def of_users(self, kept_U: Bool[np.ndarray, "U"]) -> "Sequences":
        """Return the sequences of some users, as slices."""
        if kept_U.all():
            return self
        return self.replaced(
            users=self.users.filter(pa.array(kept_U)),
            starts=self.starts[kept_U],
            stops=self.stops[kept_U],
        )

    def replaced(self, **changes: Any) -> "Sequences":
        """Return slices with some attributes replaced."""
        names = ("users", *_ARRAYS, "stops", "num_dropped_events", "num_unknown_events")
        values = {name: getattr(self, name) for name in names} | changes
        return Sequences(offsets=values.pop("starts", self.starts), **values)

    def newest(self, max_length: int) -> "Sequences":
        """Return what is left of each user's events when only the newest `max_length` are kept.

        Nothing is copied: the sequences begin later.
        """
        lengths_U = np.minimum(self.lengths, max_length)
        num_older = int((self.lengths - lengths_U).sum())
        return self.replaced(
            starts=self.stops - lengths_U, num_dropped_events=self.num_dropped_events + num_older
        )

    def windows(self, max_length: int, stride: int) -> "Sequences":
        """Return slices of `max_length` events of each user, one every `stride` events.

        They are counted from the newest event backwards, each user's newest slice first, until one
        begins with the user's oldest event; that one may be shorter. A user without events keeps
        one empty slice. Users are repeated, and nothing else is copied.

        Args:
            max_length: of a slice; a history that is not longer is one.
            stride: how many events a slice ends before the one after it.
        """
        longer_U = (self.lengths - max_length).clip(min=0)
        numbers_U = 1 + -(-longer_U // stride)
        user_W = np.repeat(np.arange(len(self)), numbers_U)
        place_W = np.arange(len(user_W)) - np.repeat(offsets_of(numbers_U)[:-1], numbers_U)
        stops_W = self.stops[user_W] - place_W * stride
        return Sequences(
            self.users.take(pa.array(user_W)),
            self.items,
            np.maximum(stops_W - max_length, self.starts[user_W]),
            self.times,
            self.behaviours,
            self.weights,
            stops=stops_W,
            num_dropped_events=self.num_dropped_events,
            num_unknown_events=self.num_unknown_events,
        )

    def sessions(self, gap_s: float) -> "Sequences":
        """Cut each user's events wherever two are more than `gap_s` seconds apart.

        Every session is a sequence of its own, with its user's id; users without events have none.
        Nothing is copied. The sequences must follow each other in the arrays, as those of a log do.

        Raises:
            DataError: there are no real times.
        """
        if self.times is None:
            raise DataError(
                "sessions are cut by times, and these events have only an order. Leave "
                "session_gap_s out, or set time_column or time_unit if the log has times."
            )
        if not self.lengths.all():
            return self.of_users(self.lengths > 0).sessions(gap_s)
        if not len(self):
            return self
        breaks = []
        for chunk in event_chunks(len(self.times)):
            first = max(chunk.start - 1, 0)
            pauses = np.diff(self.times[first : chunk.stop])
            breaks.append(np.flatnonzero(pauses > gap_s * 1e6) + first + 1)
        breaks_S = np.concatenate(breaks)
        # Two users' events lie apart too, and so may events that are not to be seen.
        owners_S = np.searchsorted(self.starts, breaks_S, side="right") - 1
        inside_S = (owners_S >= 0) & (breaks_S > self.starts[owners_S])
        inside_S &= breaks_S < self.stops[owners_S]
        starts_S = np.sort(np.concatenate([self.starts, breaks_S[inside_S]]))
        users_S = np.searchsorted(self.starts, starts_S, side="right") - 1
        stops_S = np.minimum(np.append(starts_S[1:], self.stops[-1]), self.stops[users_S])
        users = self.users.take(pa.array(users_S))
        return self.replaced(users=users, starts=starts_S, stops=stops_S)

    def save(self, folder: str | Path) -> None:
        """Write `sequences.arrow` into `folder`, whole or not at all.

        The file is an uncompressed Arrow IPC file with one row a user and a list column for each
        array, which any Arrow reader opens.
        """
        packed = self.packed()
        offsets = pa.array(packed.offsets)
        columns = {"user": packed.users}
        for name in _ARRAYS:
            flat = getattr(packed, name)
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


def offsets_of(lengths_U: Int64[np.ndarray, "U"]) -> Int64[np.ndarray, "U+1"]:
    """Return the bounds of slices of the given lengths."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_U, dtype=np.int64)])
