"""Cuts interactions into a part to train on, a part to choose by, and a part to report on."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from idbert.inputs.cuts import Cut, SplitSettings, TimeSplitSettings, cut_log
from idbert.inputs.special_tokens import positions_of
from idbert.tables import TIME, Interactions


@dataclass(frozen=True)
class HeldOut:
    """The withheld events of each user, and what the user did before.

    Attributes:
        histories: the events before the first target; every user has at least one.
        targets: one row a user or more, which follow each other without a gap; the users are those
            of `histories`, in the same order.
        known: all events of all users, tested or not, that come before the first targets: what may
            be counted when the targets are predicted.
    """

    histories: Interactions
    targets: Interactions
    known: Interactions

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.targets)

    def whole(self) -> Interactions:
        """Return the histories, each with its user's targets behind it."""
        bounds = self.histories.user_offsets(), self.targets.user_offsets()
        places = bounds[0][:-1], bounds[1][:-1] + len(self.histories)
        in_turn = [np.stack(pair, axis=1).ravel() for pair in (places, tuple(map(np.diff, bounds)))]
        both = pa.concat_tables([self.histories.table, self.targets.table])
        return self.histories.with_table(both.take(pa.array(positions_of(*in_turn))))


@dataclass(frozen=True)
class Split:
    """Three parts of a log.

    Attributes:
        train: the events to train on; no target is among them, but for those of `validation`, or
            of both parts, where the settings say so.
        validation: to choose settings and the best epoch by.
        test: to report on, read once.
    """

    train: Interactions
    validation: HeldOut
    test: HeldOut


def split(interactions: Interactions, settings: SplitSettings) -> Split:
    """Cut a log as the settings say.

    Raises:
        DataError: see `leave_last_out` and `global_time_split`.
    """
    times_T = interactions.column(TIME).to_numpy() if interactions.times_are_real else None
    offsets = interactions.user_offsets()
    cuts = cut_log(offsets, times_T, settings)
    validation, test = (_held_out(interactions, offsets, cut) for cut in cuts)
    trained = {"validation": validation.known, "test": test.known, "end": interactions}
    return Split(trained[settings.train_until], validation, test)


def leave_last_out(interactions: Interactions, targets: int = 1) -> Split:
    """Withhold each user's last event for the test, and the last but one for the validation.

    The history of a test target holds the validation target too. Users with fewer than 3 events
    stay in `train` whole and are not tested. `train` and all targets together are the input.

    Args:
        interactions: a log.
        targets: events withheld of each user for each part: with K the last K for the test, the K
            before them for the validation, and users with fewer than 2 K + 1 are only trained on.

    Raises:
        DataError: no user has enough events.
    """
    return split(interactions, SplitSettings(targets=targets))


def global_time_split(
    interactions: Interactions, settings: TimeSplitSettings | None = None, targets: int = 1
) -> Split:
    """Train on what came before one moment, test on what came after a later one.

    Nothing from after a cut is in the training events or histories before it, so that no model can
    learn from the future, as with leave-last-out it can from other users' later events. A target is
    a user's first event from the cut on; later events of the user in the same stretch are unused.

    Args:
        interactions: a log with real times.
        settings: where to cut; None: at 80% and 90% of the events.
        targets: at most so many events of each user, the first from the cut on.

    Raises:
        DataError: times are positions, or a part would be empty.
    """
    return split(
        interactions, SplitSettings("global_time", settings or TimeSplitSettings(), targets)
    )


def _held_out(interactions: Interactions, offsets: Int64[np.ndarray, "_"], cut: Cut) -> HeldOut:
    known_T = _inside(offsets, cut.ends_U)
    of_tested_T = np.repeat(cut.tested_U, np.diff(offsets))
    targets_T = np.zeros(len(interactions), dtype=bool)
    targets_T[positions_of(cut.ends_U, cut.targets_U)] = True
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
