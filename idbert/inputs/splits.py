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


def split(interactions: Interactions, settings: SplitSettings) -> Split:
    """Cut a log as the settings say.

    Raises:
        DataError: see `leave_last_out` and `global_time_split`.
    """
    if settings.name == "global_time":
        return global_time_split(interactions, settings.time)
    return leave_last_out(interactions)


def leave_last_out(interactions: Interactions) -> Split:
    """Withhold each user's last event for the test, and the last but one for the validation.

    The history of a test target holds the validation target too. Users with fewer than 3 events
    stay in `train` whole and are not tested. `train` and all targets together are the input.

    Raises:
        DataError: no user has 3 events.
    """
    offsets = interactions.user_offsets()
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
    last_U = offsets[1:][tested_U] - 1
    of_tested_T = np.repeat(tested_U, lengths_U)
    is_last_T = _mask(last_U, len(interactions))
    is_last_but_one_T = _mask(last_U - 1, len(interactions))
    train_T = ~is_last_T & ~is_last_but_one_T
    train = interactions.filter(train_T)
    return Split(
        train=train,
        validation=HeldOut(
            histories=interactions.filter(train_T & of_tested_T),
            targets=interactions.filter(is_last_but_one_T),
            known=train,
        ),
        test=HeldOut(
            histories=interactions.filter(of_tested_T & ~is_last_T),
            targets=interactions.filter(is_last_T),
            known=interactions.filter(~is_last_T),
        ),
    )


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
    settings = settings or TimeSplitSettings()
    if not interactions.times_are_real:
        raise DataError(
            "a global time split needs real times, and these are positions within each user's "
            "events. Use leave_last_out, or set time_column or time_unit if the log has times."
        )
    times_T = interactions.column(TIME).to_numpy()
    ordered_T = np.sort(times_T)
    first_cut = ordered_T[int(settings.validation_from * len(ordered_T))]
    second_cut = ordered_T[int(settings.test_from * len(ordered_T))]
    train_T = times_T < first_cut
    if not train_T.any():
        raise DataError(
            "the global time split leaves nothing to train on: no event is earlier than the first "
            "cut. Raise validation_from."
        )
    return Split(
        train=interactions.filter(train_T),
        validation=_first_from(interactions, times_T, first_cut, second_cut, "validation"),
        test=_first_from(interactions, times_T, second_cut, ordered_T[-1] + 1, "test"),
    )


def _first_from(
    interactions: Interactions,
    times_T: Int64[np.ndarray, "T"],
    start: np.int64,
    end: np.int64,
    name: str,
) -> HeldOut:
    """Withhold each user's first event in [start, end); the history is all before `start`."""
    offsets = interactions.user_offsets()
    before_U = np.add.reduceat(times_T < start, offsets[:-1], dtype=np.int64)
    # A user's events are sorted by time: the first one from `start` on follows those before it.
    first_U = offsets[:-1] + before_U
    active_U = first_U < offsets[1:]
    active_U[active_U] = times_T[first_U[active_U]] < end
    kept_U = active_U & (before_U > 0)
    if not kept_U.any():
        raise DataError(
            f"the global time split leaves no {name} targets: no user has an event in that stretch "
            "of time and one before it. Move validation_from and test_from."
        )
    if (active_U & ~kept_U).any():
        logger.info(
            "global_time_split: %d of %d users in the %s part have no history and are left out",
            np.count_nonzero(active_U & ~kept_U),
            np.count_nonzero(active_U),
            name,
        )
    of_kept_T = np.repeat(kept_U, np.diff(offsets))
    return HeldOut(
        histories=interactions.filter((times_T < start) & of_kept_T),
        targets=interactions.filter(_mask(first_U[kept_U], len(interactions))),
        known=interactions.filter(times_T < start),
    )


def _mask(rows: Int64[np.ndarray, "N"], length: int) -> Bool[np.ndarray, "T"]:
    mask = np.zeros(length, dtype=bool)
    mask[rows] = True
    return mask
