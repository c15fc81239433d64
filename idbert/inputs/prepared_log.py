"""A log that was prepared once: its vocabulary, and every user's events in mapped arrays.

Parts of the log are slices of these arrays, so that training reads only the pages of its batches.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from idbert.errors import DataError
from idbert.inputs.sequences import Sequences, SequenceSettings, log_left_out, mean_weight
from idbert.inputs.splits import Cut, SplitSettings, TimeSplitSettings, cut_log
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import FIRST_ITEM
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT, Interactions

FORMAT = 1
SUMMARY = "log.json"
FILES = (SUMMARY, "vocabulary.parquet", "sequences.arrow")
"""What a prepared log consists of; `log.json` is written last."""

Part = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class PreparedLog:
    """A whole log as vocabulary rows, and how it is split.

    Attributes:
        vocabulary: of all items; counts and order are those of the training part.
        events: all events of all users; weights as in the log, times also where they are positions.
        split: what is held out.
        times_are_real: whether times are microseconds since 1970-01-01 UTC, or positions.
        source: the files that it was made of: name, size in bytes, time of the last change.
    """

    vocabulary: Vocabulary
    events: Sequences
    split: SplitSettings
    times_are_real: bool
    source: list[list[Any]]

    @classmethod
    def open(cls, folder: str | Path) -> "PreparedLog":
        """Map what `prepare_log` wrote into `folder`.

        Raises:
            DataError: a file is missing or damaged.
        """
        path = Path(folder) / SUMMARY
        if not path.is_file():
            raise DataError(f"{path} is missing: {folder} is not the folder of a prepared log.")
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}. Prepare the log anew.") from error
        if summary.get("format") != FORMAT:
            raise DataError(
                f"{path} is of format {summary.get('format')}; this idbert reads {FORMAT}. Prepare "
                "the log anew."
            )
        return cls(
            Vocabulary.load(folder),
            Sequences.open(folder),
            split_from(summary["split"]),
            summary["times_are_real"],
            summary["source"],
        )

    def train(self, settings: SequenceSettings) -> Sequences:
        """Return the training part, as `build_sequences` makes it; slices of the mapped arrays.

        Only weights are copied, for they are divided by their mean over the part.

        Raises:
            DataError: the weights are all zero.
        """
        whole = self._known(self._cuts[0])
        kept_U = whole.lengths >= max(settings.min_length, 1)
        num_short = int(np.count_nonzero(~kept_U & (whole.lengths > 0)))
        part = _of_users(whole, kept_U)
        if settings.max_length is not None:
            part = part.newest(settings.max_length)
        if part.weights is not None and len(part):
            seen_T = _replaced(part, times=None, behaviours=None).packed().weights
            assert seen_T is not None
            part = _replaced(part, weights=part.weights / mean_weight(seen_T))
        log_left_out(part, settings, num_short)
        return part

    def held_out(self, part: Part) -> tuple[Sequences, Int64[np.ndarray, "U"]]:
        """Return whole histories (in memory, without weights) and each one's target row."""
        cut = self._cuts[("validation", "test").index(part)]
        histories = _replaced(self._known(cut), weights=None)
        targets_U = self.events.items[cut.ends_U[cut.tested_U]].astype(np.int64)
        return _of_users(histories, cut.tested_U).packed(), targets_U

    def target_times(self, part: Part) -> Int64[np.ndarray, "U"] | None:
        """Return when the targets of `held_out` came, in microseconds; None without real times."""
        if not self.times_are_real or self.events.times is None:
            return None
        cut = self._cuts[("validation", "test").index(part)]
        times_U: np.ndarray = self.events.times[cut.ends_U[cut.tested_U]]
        return times_U

    def known(self, part: Part) -> Sequences:
        """Return all events that come before the targets, of tested users or not, in memory."""
        known = self._known(self._cuts[("validation", "test").index(part)])
        return _of_users(_replaced(known, weights=None), known.lengths > 0).packed()

    def interactions(
        self,
        users: slice = slice(None),  # noqa: B008 (cannot change)
    ) -> Interactions:
        """Return the log as the table that `read_interactions` returns, in memory.

        Args:
            users: whose events, by their places among all users; all by default.
        """
        events = self.events
        assert events.times is not None  # a prepared log keeps them
        start, stop, _ = users.indices(len(events))
        part = slice(events.offsets[start], events.offsets[max(start, stop)])
        users_T = np.repeat(np.arange(start, stop), events.lengths[start:stop])
        columns = {
            USER: events.users.take(pa.array(users_T)),
            ITEM: self.vocabulary.ids.take(pa.array(events.items[part] - FIRST_ITEM)),
            TIME: pa.array(events.times[part]),
        }
        if events.behaviours is not None:
            names = pa.array(self.vocabulary.behaviours)
            columns[BEHAVIOUR] = names.take(pa.array(events.behaviours[part]))
        if events.weights is not None:
            columns[WEIGHT] = pa.array(events.weights[part])
        return Interactions(pa.table(columns), self.times_are_real)

    @cached_property
    def _cuts(self) -> tuple[Cut, Cut]:
        times_T = self.events.times if self.times_are_real else None
        return cut_log(self.events.offsets, times_T, self.split)

    def _known(self, cut: Cut) -> Sequences:
        """Return what all users did before a moment, as slices."""
        events = _replaced(self.events, stops=cut.ends_U)
        return events if self.times_are_real else _replaced(events, times=None)


def split_from(values: Mapping[str, Any]) -> SplitSettings:
    """Return the settings of a split whose fields were written as plain values."""
    return SplitSettings(values["name"], TimeSplitSettings(**values["time"]))


def _of_users(sequences: Sequences, kept_U: np.ndarray) -> Sequences:
    if kept_U.all():
        return sequences
    return _replaced(
        sequences,
        users=sequences.users.filter(pa.array(kept_U)),
        starts=sequences.starts[kept_U],
        stops=sequences.stops[kept_U],
    )


def _replaced(sequences: Sequences, **changes: Any) -> Sequences:
    """Return slices with some attributes replaced."""
    names = ("users", "items", "times", "behaviours", "weights", "stops", "num_dropped_events")
    values = {name: getattr(sequences, name) for name in names} | changes
    return Sequences(offsets=values.pop("starts", sequences.starts), **values)
