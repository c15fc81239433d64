"""Where a log is cut: the settings of a split, and the places in each user's sorted events."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from idbert.errors import ConfigError, DataError
from idbert.inputs.flat_arrays import event_chunks, user_chunks

logger = logging.getLogger(__name__)

SORTED_AT_ONCE = 2**24
"""Times that are copied to be parted at once: 128 MiB."""
BINS = 2**16


@dataclass(frozen=True)
class TimeSplitSettings:
    """Where the global time split cuts, as shares of the events in the order of time."""

    validation_from: float = 0.8
    """Share of the events before the first cut: these are trained on."""

    test_from: float = 0.9
    """Share of the events before the second cut: between the cuts lie the validation targets."""

    test_until: float = 1.0
    """Share of the events before the end of the test targets. Later events are neither trained on
    nor asked for; their items still belong to the catalogue."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_from < self.test_from < self.test_until <= 1:
            raise ConfigError(
                "0 < validation_from < test_from < test_until <= 1 must hold, not "
                f"validation_from={self.validation_from}, test_from={self.test_from} and "
                f"test_until={self.test_until}."
            )


@dataclass(frozen=True, eq=False)
class Cut:
    """One moment of a log: what every user did before it, and whose next events are withheld.

    A user's events are sorted, so that those before the moment are the first ones. The targets of a
    tested user are the events from `ends_U` on, and the events before them are the user's history.

    Attributes:
        ends_U: where the known events of each user end; they begin where the user's events do.
        targets_U: how many targets each user has here; one with targets has a known event.
    """

    ends_U: Int64[np.ndarray, "U"]
    targets_U: Int64[np.ndarray, "U"]

    @property
    def tested_U(self) -> Bool[np.ndarray, "U"]:
        """Which users have a target here."""
        tested_U: np.ndarray = self.targets_U > 0
        return tested_U


@dataclass(frozen=True)
class SplitSettings:
    """How the log is cut into training, validation and test."""

    name: Literal["leave_last_out", "global_time"] = "leave_last_out"
    """leave_last_out tests on each user's last event, global_time on what follows one moment."""

    time: TimeSplitSettings = field(default_factory=TimeSplitSettings)
    """Where global_time cuts."""

    targets: int = 1
    """Events withheld of each user for each part, ranked one after the other, each with those
    before it in the history: the last ones (leave_last_out), or the first ones after the cut, at
    most so many (global_time). A user's metrics are means over them."""

    train_until: Literal["validation", "test", "end"] = "validation"
    """Before the targets of which part all events are trained on. validation: this part chooses
    settings and the best epoch. test: once they are chosen, the events of the validation part are
    trained on too. Then nothing is left to choose by: the last weights are kept, and the run's
    report is of the test part. end: the whole log, for a model that is put to use; it can be
    evaluated on no part, and the report shows recommendations alone."""

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise ConfigError(f"targets is {self.targets}; withhold 1 event of each user or more.")
        if self.train_until == "end" and (self.targets > 1 or self.time != TimeSplitSettings()):
            raise ConfigError(
                "train_until=end withholds nothing, so that targets and the cuts of a time split "
                "cannot act. Leave them out."
            )
        if self.name == "leave_last_out" and self.time != TimeSplitSettings():
            raise ConfigError(
                "the cuts of a time split cannot act with leave_last_out. Set name=global_time, or "
                "leave them out."
            )

    @property
    def has_validation(self) -> bool:
        """Whether there is a part to choose by, which is not trained on."""
        return self.train_until == "validation"

    @property
    def withheld_parts(self) -> tuple[Literal["validation", "test"], ...]:
        """The parts that are not trained on; the first of them is what a run reports."""
        if self.train_until == "end":
            return ()
        return ("test",) if self.train_until == "test" else ("validation", "test")

    def in_words(self) -> str:
        """Return what is held out, such as "leave-last-out"."""
        words = self.name.replace("_", "-")
        if self.targets > 1 and self.name == "leave_last_out":
            words = f"leave-last-{self.targets}-out"
        elif self.targets > 1:
            words += f", up to {self.targets} events a user"
        return words if self.has_validation else f"{words}, validation trained on too"

    def trained_until(
        self, offsets: Int64[np.ndarray, "_"], cuts: tuple[Cut, Cut]
    ) -> Int64[np.ndarray, "U"]:
        """Return where the events of each user end that are trained on.

        Args:
            offsets: U + 1 bounds of the users' events, oldest first.
            cuts: what `cut_log` returns.
        """
        if self.train_until == "end":
            return offsets[1:]
        return cuts[("validation", "test").index(self.train_until)].ends_U


def cut_log(
    offsets: Int64[np.ndarray, "_"],
    times_T: Int64[np.ndarray, "T"] | None,
    settings: SplitSettings,
) -> tuple[Cut, Cut]:
    """Return where the settings cut a log for validation, and where for the test.

    Which events are trained on: see `SplitSettings.trained_until`. Where all are, nothing is
    withheld.

    Args:
        offsets: U + 1 bounds of the users' events, oldest first.
        times_T: of all events, which may be a mapped file; None where they only have an order.
        settings: how to cut.

    Raises:
        DataError: no user has enough events; or, of a time split, times are positions or a part
            would be empty.
    """
    if settings.train_until == "end":
        none = Cut(offsets[1:], np.zeros(len(offsets) - 1, np.int64))
        return none, none
    if settings.name == "global_time":
        return _time_cuts(offsets, times_T, settings.time, settings.targets)
    return _last_cuts(offsets, settings.targets)


def _last_cuts(offsets: Int64[np.ndarray, "_"], targets: int) -> tuple[Cut, Cut]:
    lengths_U = np.diff(offsets)
    needed = 2 * targets + 1
    tested_U = lengths_U >= needed
    if not tested_U.any():
        each = "one" if targets == 1 else str(targets)
        remedy = "" if targets == 1 else ", or lower split.targets"
        raise DataError(
            f"none of the {len(lengths_U):,} users has {needed} events, which leave_last_out "
            f"needs: one to train on, {each} for validation, {each} for the test. Give a log that "
            f"holds more of each user{remedy}."
        )
    if not tested_U.all():
        logger.info(
            "leave_last_out: %d of %d users have fewer than %d events and are only trained on",
            np.count_nonzero(~tested_U),
            len(lengths_U),
            needed,
        )
    targets_U = np.where(tested_U, targets, 0)
    last = Cut(offsets[1:] - targets_U, targets_U)
    return Cut(last.ends_U - targets_U, targets_U), last


def _time_cuts(
    offsets: Int64[np.ndarray, "_"],
    times_T: Int64[np.ndarray, "T"] | None,
    settings: TimeSplitSettings,
    targets: int,
) -> tuple[Cut, Cut]:
    if times_T is None:
        raise DataError(
            "a global time split needs real times, and these are positions within each user's "
            "events. Use leave_last_out, or set time_column or time_unit if the log has times."
        )
    places = [int(share * len(times_T)) for share in (settings.validation_from, settings.test_from)]
    first_cut, second_cut = at_places(times_T, places)
    train_U = _events_before(first_cut, offsets, times_T)
    if not train_U.any():
        raise DataError(
            "the global time split leaves nothing to train on: no event is earlier than the first "
            "cut. Raise validation_from."
        )
    later_U = _events_before(second_cut, offsets, times_T)
    end_U = np.diff(offsets)
    if settings.test_until < 1:
        place = int(settings.test_until * len(times_T))
        end_U = _events_before(at_places(times_T, [place])[0], offsets, times_T)
    return (
        _time_cut(offsets, train_U, later_U, targets, "validation"),
        _time_cut(offsets, later_U, end_U, targets, "test"),
    )


def _events_before(
    moment: np.int64, offsets: Int64[np.ndarray, "_"], times_T: Int64[np.ndarray, "T"]
) -> Int64[np.ndarray, "U"]:
    """Count each user's events before a moment."""
    before_U = np.empty(len(offsets) - 1, np.int64)
    for users in user_chunks(offsets):
        bounds = offsets[users.start : users.stop + 1]
        is_before = times_T[bounds[0] : bounds[-1]] < moment
        np.add.reduceat(is_before, bounds[:-1] - bounds[0], dtype=np.int64, out=before_U[users])
    return before_U


def at_places(values_T: Int64[np.ndarray, "T"], places: Sequence[int]) -> Int64[np.ndarray, "_"]:
    """Return what would stand at these places if the values were sorted.

    Many values, which may be those of a mapped file, are not copied: they are counted chunk by
    chunk into bins, and those of the bin that holds the place into smaller ones, until it holds one
    value alone.
    """
    if len(values_T) <= SORTED_AT_ONCE:
        return np.partition(values_T, places)[places]
    chunks = [values_T[chunk] for chunk in event_chunks(len(values_T))]
    lowest, highest = min(map(np.min, chunks)), max(map(np.max, chunks))
    return np.array([_at_place(chunks, place, int(lowest), int(highest)) for place in places])


def _at_place(chunks: Sequence[np.ndarray], place: int, low: int, high: int) -> int:
    before = 0  # values below `low`
    while low < high:
        width = -(-(high - low + 1) // BINS)
        counts = np.zeros(BINS, np.int64)
        for values in chunks:
            inside = values[(values >= low) & (values <= high)]
            counts += np.bincount((inside - low) // width, minlength=BINS)
        up_to = before + np.cumsum(counts)
        found = int(np.searchsorted(up_to, place, side="right"))
        before = int(up_to[found] - counts[found])
        low, high = low + found * width, min(high, low + (found + 1) * width - 1)
    return low


def _time_cut(
    offsets: Int64[np.ndarray, "_"],
    before_U: Int64[np.ndarray, "U"],
    until_U: Int64[np.ndarray, "U"],
    targets: int,
    name: str,
) -> Cut:
    """Test the users with known events who have some in the stretch of time that begins here.

    Args:
        offsets: bounds of the users' events.
        before_U: each user's number of events before the stretch.
        until_U: that before its end.
        targets: at most so many of a user.
        name: of the part.
    """
    inside_U = until_U - before_U
    targets_U = np.where(before_U > 0, np.minimum(inside_U, targets), 0)
    num_active, num_tested = np.count_nonzero(inside_U), np.count_nonzero(targets_U)
    if not num_tested:
        raise DataError(
            f"the global time split leaves no {name} targets: no user has an event in that stretch "
            "of time and one before it. Move validation_from, test_from and test_until."
        )
    if num_tested < num_active:
        logger.info(
            "global_time_split: %d of %d users in the %s part have no history and are left out",
            num_active - num_tested,
            num_active,
            name,
        )
    num_short = np.count_nonzero(targets_U % targets)
    if num_short:
        logger.info(
            "global_time_split: %d of %d users in the %s part have fewer than %d events there, "
            "which all are targets",
            num_short,
            num_tested,
            name,
            targets,
        )
    return Cut(offsets[:-1] + before_U, targets_U)
