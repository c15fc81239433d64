"""Cuts interactions into a part to train on, a part to choose by, and a part to report on."""

import logging
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from idbert.errors import ConfigError, DataError
from idbert.tables import TIME, Interactions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """One withheld event a user, and what the user did before.

    Attributes:
        histories: the events before the target; every user has at least one.
        targets: exactly one row a user; the users are those of `histories`, in the same order.
        known: all events of all users, tested or not, that come before the targets: what may be
            counted when the targets are predicted.
    """

    histories: Interactions
    targets: Interactions
    known: Interactions

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.targets)

    def target_times(self) -> Int64[np.ndarray, "U"] | None:
        """Return when the targets came, in microseconds; None where the log has no real times."""
        if not self.targets.times_are_real:
            return None
        times_U: np.ndarray = self.targets.column(TIME).to_numpy()
        return times_U


@dataclass(frozen=True)
class Split:
    """Three parts of a log.

    Attributes:
        train: the events to train on; no target is among them.
        validation: to choose settings and the best epoch by.
        test: to report on, read once.
    """

    train: Interactions
    validation: HeldOut
    test: HeldOut


@dataclass(frozen=True)
class TimeSplitSettings:
    """Where the global time split cuts, as shares of the events in the order of time."""

    validation_from: float = 0.8
    """Share of the events before the first cut: these are trained on."""

    test_from: float = 0.9
    """Share of the events before the second cut: between the cuts lie the validation targets."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_from < self.test_from < 1:
            raise ConfigError(
                "0 < validation_from < test_from < 1 must hold, not "
                f"validation_from={self.validation_from} and test_from={self.test_from}."
            )


@dataclass(frozen=True)
class SplitSettings:
    """How the log is cut into training, validation and test."""

    name: Literal["leave_last_out", "global_time"] = "leave_last_out"
    """leave_last_out tests on each user's last event, global_time on what follows one moment."""

    time: TimeSplitSettings = field(default_factory=TimeSplitSettings)
    """Where global_time cuts."""

    def __post_init__(self) -> None:
        if self.name == "leave_last_out" and self.time != TimeSplitSettings():
            raise ConfigError(
                "the cuts of a time split cannot act with leave_last_out. Set name=global_time, or "
                "leave them out."
            )


@dataclass(frozen=True, eq=False)
class Cut:
    """One moment of a log: what every user did before it, and whose next event is withheld.

    A user's events are sorted, so that those before the moment are the first ones. The target of a
    tested user is the event at `ends_U`, and the events before it are the user's history.

    Attributes:
        ends_U: where the known events of each user end; they begin where the user's events do.
        tested_U: which users have a target here; each of them has a known event.
    """

    ends_U: Int64[np.ndarray, "U"]
    tested_U: Bool[np.ndarray, "U"]


def split(interactions: Interactions, settings: SplitSettings) -> Split:
    """Cut a log as the settings say.

    Raises:
        DataError: see `leave_last_out` and `global_time_split`.
    """
    times_T = interactions.column(TIME).to_numpy() if interactions.times_are_real else None
    offsets = interactions.user_offsets()
    return _split_at(interactions, offsets, *cut_log(offsets, times_T, settings))


def cut_log(
    offsets: Int64[np.ndarray, "_"],
    times_T: Int64[np.ndarray, "T"] | None,
    settings: SplitSettings,
) -> tuple[Cut, Cut]:
    """Return where the settings cut a log for validation, and where for the test.

    What is known at the first cut is trained on.

    Args:
        offsets: U + 1 bounds of the users' events, oldest first.
        times_T: of all events, which may be a mapped file; None where they only have an order.
        settings: how to cut.

    Raises:
        DataError: see `leave_last_out` and `global_time_split`.
    """
    if settings.name == "global_time":
        return _time_cuts(offsets, times_T, settings.time)
    return _last_cuts(offsets)


def leave_last_out(interactions: Interactions) -> Split:
    """Withhold each user's last event for the test, and the last but one for the validation.

    The history of a test target holds the validation target too. Users with fewer than 3 events
    stay in `train` whole and are not tested. `train` and all targets together are the input.

    Raises:
        DataError: no user has 3 events.
    """
    return split(interactions, SplitSettings())


def global_time_split(
    interactions: Interactions, settings: TimeSplitSettings | None = None
) -> Split:
    """Train on what came before one moment, test on what came after a later one.

    Nothing from after a cut is in the training events or histories before it, so that no model can
    learn from the future, as with leave-last-out it can from other users' later events. A target is
    a user's first event from the cut on; later events of the user in the same stretch are unused.

    Args:
        interactions: a log with real times.
        settings: where to cut; None: at 80% and 90% of the events.

    Raises:
        DataError: times are positions, or a part would be empty.
    """
    return split(interactions, SplitSettings("global_time", settings or TimeSplitSettings()))


def _last_cuts(offsets: Int64[np.ndarray, "_"]) -> tuple[Cut, Cut]:
    lengths_U = np.diff(offsets)
    tested_U = lengths_U >= 3
    if not tested_U.any():
        raise DataError(
            f"none of the {len(lengths_U):,} users has 3 events, which leave_last_out needs: one "
            "to train on, one for validation, one for the test. Give a log that holds more of each "
            "user."
        )
    if not tested_U.all():
        logger.info(
            "leave_last_out: %d of %d users have fewer than 3 events and are only trained on",
            np.count_nonzero(~tested_U),
            len(lengths_U),
        )
    last = Cut(offsets[1:] - tested_U, tested_U)
    return Cut(last.ends_U - tested_U, tested_U), last


def _time_cuts(
    offsets: Int64[np.ndarray, "_"],
    times_T: Int64[np.ndarray, "T"] | None,
    settings: TimeSplitSettings,
) -> tuple[Cut, Cut]:
    if times_T is None:
        raise DataError(
            "a global time split needs real times, and these are positions within each user's "
            "events. Use leave_last_out, or set time_column or time_unit if the log has times."
        )
    places = [int(share * len(times_T)) for share in (settings.validation_from, settings.test_from)]
    first_cut, second_cut = np.partition(times_T, places)[places]
    train_U = _events_before(first_cut, offsets, times_T)
    if not train_U.any():
        raise DataError(
            "the global time split leaves nothing to train on: no event is earlier than the first "
            "cut. Raise validation_from."
        )
    after_all = times_T.max() + 1
    return (
        _time_cut(train_U, offsets, times_T, second_cut, "validation"),
        _time_cut(
            _events_before(second_cut, offsets, times_T), offsets, times_T, after_all, "test"
        ),
    )


def _events_before(
    moment: np.int64, offsets: Int64[np.ndarray, "_"], times_T: Int64[np.ndarray, "T"]
) -> Int64[np.ndarray, "U"]:
    """Count each user's events before a moment."""
    before_U: np.ndarray = np.add.reduceat(times_T < moment, offsets[:-1], dtype=np.int64)
    return before_U


def _time_cut(
    before_U: Int64[np.ndarray, "U"],
    offsets: Int64[np.ndarray, "_"],
    times_T: Int64[np.ndarray, "T"],
    end: np.int64,
    name: str,
) -> Cut:
    """Test the users with known events whose next one is before `end`."""
    ends_U = offsets[:-1] + before_U
    active_U = ends_U < offsets[1:]
    active_U[active_U] = times_T[ends_U[active_U]] < end
    tested_U = active_U & (before_U > 0)
    if not tested_U.any():
        raise DataError(
            f"the global time split leaves no {name} targets: no user has an event in that stretch "
            "of time and one before it. Move validation_from and test_from."
        )
    if (active_U & ~tested_U).any():
        logger.info(
            "global_time_split: %d of %d users in the %s part have no history and are left out",
            np.count_nonzero(active_U & ~tested_U),
            np.count_nonzero(active_U),
            name,
        )
    return Cut(ends_U, tested_U)


def _split_at(
    interactions: Interactions, offsets: Int64[np.ndarray, "_"], validation: Cut, test: Cut
) -> Split:
    held_out = [_held_out(interactions, offsets, cut) for cut in (validation, test)]
    return Split(held_out[0].known, *held_out)


def _held_out(interactions: Interactions, offsets: Int64[np.ndarray, "_"], cut: Cut) -> HeldOut:
    known_T = _inside(offsets, cut.ends_U)
    of_tested_T = np.repeat(cut.tested_U, np.diff(offsets))
    targets_T = np.zeros(len(interactions), dtype=bool)
    targets_T[cut.ends_U[cut.tested_U]] = True
    return HeldOut(
        histories=interactions.filter(known_T & of_tested_T),
        targets=interactions.filter(targets_T),
        known=interactions.filter(known_T),
    )


def _inside(
    offsets: Int64[np.ndarray, "_"], ends_U: Int64[np.ndarray, "U"]
) -> Bool[np.ndarray, "T"]:
    """Mark the events from each user's first up to the user's end."""
    steps_T = np.zeros(offsets[-1] + 1, dtype=np.int8)
    some_U = ends_U > offsets[:-1]
    steps_T[offsets[:-1][some_U]] += 1  # no two users begin, and no two end, at one place
    steps_T[ends_U[some_U]] -= 1
    return np.cumsum(steps_T[:-1], dtype=np.int8).astype(bool)
