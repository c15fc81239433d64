"""What an evaluation asks: the targets of every user, each with the events before it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from idbert.inputs.user_slices import Sequences


@dataclass(frozen=True, eq=False)
class Queries:
    """Targets, user by user, each user's oldest first.

    Attributes:
        histories: the events before each target, the user's earlier targets among them; slices.
        targets_Q: the targets' vocabulary rows.
        users_Q: whose they are, numbered from 0 in the order of the users.
        times_Q: when they came, in microseconds; None where the events have no real times.
    """

    histories: Sequences
    targets_Q: Int64[np.ndarray, "Q"]
    users_Q: Int64[np.ndarray, "Q"]
    times_Q: Int64[np.ndarray, "Q"] | None


def one_by_one(events: Sequences, targets_U: Int64[np.ndarray, "U"]) -> Queries:
    """Return the last events of every user as targets, each with all the events before it.

    This is successive evaluation: a user's history grows by each target that was asked for, as it
    does in use, while the model stays as it is. A user with n targets has n histories, each of
    which are slices of the same events: nothing is copied.

    Args:
        events: histories with the targets at their ends.
        targets_U: how many targets each user has, at least 1.
    """
    users_Q = np.repeat(np.arange(len(events)), targets_U)
    first_Q = np.repeat(np.cumsum(targets_U) - targets_U, targets_U)
    stops_Q = (events.stops - targets_U)[users_Q] + np.arange(len(users_Q)) - first_Q
    histories = Sequences(
        events.users.take(pa.array(users_Q)),
        events.items,
        events.starts[users_Q],
        events.times,
        events.behaviours,
        stops=stops_Q,
        num_dropped_events=events.num_dropped_events,
        num_unknown_events=events.num_unknown_events,
    )
    targets_Q = events.items[stops_Q].astype(np.int64)
    times_Q = None if events.times is None else events.times[stops_Q]
    return Queries(histories, targets_Q, users_Q, times_Q)
