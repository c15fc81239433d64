"""When recommendations are asked for, and what a model that reads times needs of histories."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Int64

from idbert.errors import ConfigError, DataError
from idbert.inputs.times import SMALLEST
from idbert.nn.time_bias import TimesRead
from idbert.retrieval.histories import Histories

Moment: TypeAlias = str | int | float | np.integer | np.floating | datetime | pd.Timestamp
"""An ISO date (UTC where it names no zone), or seconds since 1970-01-01 UTC."""

YEAR_S = 365.25 * 24 * 60 * 60

Moments: TypeAlias = Moment | Sequence[Moment] | np.ndarray | pd.Series
"""One moment for all, or one a history, in their order."""


def with_query_times(histories: Histories, reads: TimesRead, at: Moments | None) -> Histories:
    """Return the histories with the moments for which is recommended, where a model reads them.

    Args:
        histories: in the order that `at` has.
        reads: which times the model reads.
        at: the moments; None: not said.

    Raises:
        DataError: the model reads times and the histories have none, or a moment is none.
        ConfigError: `at` lacks, or cannot act.
    """
    if reads != "none" and histories.times_T is None:
        raise DataError(
            "the model reads the times of events (model.time_bias), and these histories have none. "
            "Give a table of user_id, item_id and timestamp, in seconds or dates."
        )
    check_moment(reads, at)
    if at is None:
        return histories
    return replace(histories, asked_U=_microseconds(at, len(histories)))


def check_moment(reads: TimesRead, at: Moments | None) -> None:
    """Check that the moment for which is recommended is said where a model reads it, and only then.

    Raises:
        ConfigError: it lacks, or cannot act.
    """
    if reads == "queries" and at is None:
        raise ConfigError(
            "The model reads the moment for which is recommended (model.time_bias.query_time). "
            "Give it by at: a date, or seconds since 1970-01-01 UTC."
        )
    if reads != "queries" and at is not None:
        raise ConfigError(
            f"at={at!r} cannot act: this model does not read the moment for which is recommended "
            "(model.time_bias.query_time). Leave it out."
        )


def _microseconds(at: Moments, num_histories: int) -> Int64[np.ndarray, "U"]:
    if isinstance(at, Sequence | np.ndarray | pd.Series) and not isinstance(at, str):
        if len(at) != num_histories:
            raise DataError(
                f"at holds {len(at)} moments for {num_histories} histories. Give one for all, or "
                "one for each."
            )
        codes, moments = pd.factorize(pd.Series(at))  # which leaves out what is missing
        missing = np.flatnonzero(codes < 0)
        if len(missing):
            raise DataError(f"at holds no moment for history {missing[0]}. Give one for each.")
        return np.array([_microsecond(moment) for moment in moments], np.int64)[codes]
    return np.full(num_histories, _microsecond(at), np.int64)


def _microsecond(moment: Any) -> int:
    try:
        if isinstance(moment, str):
            with suppress(ValueError):
                moment = float(moment)
        is_number = not isinstance(moment, str | datetime | np.datetime64)
        if is_number and 0 <= moment < SMALLEST["seconds"]:
            raise DataError(
                f"at is {moment:.0f}, which would be a moment of {1970 + moment / YEAR_S:.0f} in "
                "seconds since 1970. Give an ISO date with dashes, such as 2024-05-31."
            )
        time = pd.to_datetime(moment, utc=True, unit="s" if is_number else None)
        nanoseconds = int(time.value)  # in which pandas counts, whatever the unit
        if nanoseconds < 0:
            raise ValueError
    except (ValueError, TypeError, OverflowError, AttributeError):
        raise DataError(
            f"at is {moment!r}, which is no time since 1970. Give an ISO date "
            "(2024-05-31T18:30:00), or seconds since 1970-01-01 UTC."
        ) from None
    return nanoseconds // 1000
