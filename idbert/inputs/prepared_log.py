"""A log that was prepared once: its vocabulary, and every user's events in mapped arrays.

Parts of the log are slices of these arrays, so that training reads only the pages of its batches.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from idbert.errors import DataError
from idbert.inputs.cuts import Cut, SplitSettings, TimeSplitSettings, cut_log
from idbert.inputs.queries import Queries, one_by_one
from idbert.inputs.sequences import Sequences, SequenceSettings, cut
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
            DataError: the weights are all zero, or there are sessions and no real times.
        """
        return cut(self._until(self.split.trained_until(self.events.offsets, self._cuts)), settings)

    def held_out(self, part: Part) -> Queries:
        """Return the targets, each with its whole history: slices of the mapped arrays."""
        at = self._cuts[("validation", "test").index(part)]
        events = self._until(at.ends_U + at.targets_U).replaced(weights=None)
        return one_by_one(events.of_users(at.tested_U), at.targets_U[at.tested_U])

    def known(self, part: Part) -> Sequences:
        """Return all events that come before the targets, of tested users or not, in memory."""
        known = self._until(self._cuts[("validation", "test").index(part)].ends_U)
        return known.replaced(weights=None).of_users(known.lengths > 0).packed()

    def of_users(self, kept_U: Bool[np.ndarray, "U"]) -> "PreparedLog":
        """Return the log of some users alone, in memory; the catalogue stays the same."""
        return replace(self, events=self.events.of_users(kept_U).packed())

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

    def _until(self, stops_U: Int64[np.ndarray, "U"]) -> Sequences:
        """Return what all users did up to some place in the log, as slices."""
        events = self.events.replaced(stops=stops_U)
        return events if self.times_are_real else events.replaced(times=None)


def split_from(values: Mapping[str, Any]) -> SplitSettings:
    """Return the settings of a split whose fields were written as plain values."""
    time = TimeSplitSettings(**values["time"])
    later = {name: values[name] for name in ("targets", "train_until") if name in values}
    return SplitSettings(values["name"], time, **later)
