"""Times of events in batches of items, and which of them a model may see."""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Int64

from idbert.errors import ConfigError

TimeInput: TypeAlias = Literal["none", "events", "queries"]
"""Which times a model reads: none; those of the events of a history; or also the moment for which
is recommended, which in training is the time of the item to be named."""

MICROSECONDS = 1_000_000
"""Of a second; times are counted in them."""

DAY = 86_400 * MICROSECONDS


def check_times(times_T: Int64[np.ndarray, "T"] | None, wanted: TimeInput) -> None:
    """Check that a log has the times that a model reads.

    Raises:
        ConfigError: its times are positions.
    """
    if wanted != "none" and times_T is None:
        raise ConfigError(
            "The model reads the times of events (model.time_bias.name is not none), and the "
            "events have no real times, only an order. Leave model.time_bias out, or give a log "
            "whose timestamps are seconds since 1970-01-01 UTC or dates."
        )


def times_as_seen(
    times_BL: Int64[np.ndarray, "B L"],
    is_hidden_BL: Bool[np.ndarray, "B L"],
    lengths_B: Int64[np.ndarray, "B"],
) -> Int64[np.ndarray, "B L"]:
    """Return times in which hidden events take that of the nearest seen event before them.

    So the last position of a history, where the item to come is asked for, has the time of the
    newest event. Before the first seen event there is only that one's time to take. Where nothing
    is seen, all times are equal.

    Args:
        times_BL: Of the events; what stands at padding does not count.
        is_hidden_BL: Events whose time must not be told.
        lengths_B: Real positions of each sequence.
    """
    places_L = np.arange(times_BL.shape[1])
    is_seen_BL = ~is_hidden_BL & (places_L < lengths_B[:, None])
    source_BL = np.maximum.accumulate(np.where(is_seen_BL, places_L, -1), axis=1)
    source_BL = np.where(source_BL < 0, is_seen_BL.argmax(axis=1)[:, None], source_BL)
    seen_BL: np.ndarray = np.take_along_axis(times_BL, source_BL, axis=1)
    return seen_BL
