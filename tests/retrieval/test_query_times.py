"""The moments for which is recommended, however they are written."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from idbert.errors import ConfigError, DataError
from idbert.retrieval.histories import Histories
from idbert.retrieval.query_times import with_query_times

TWO = Histories(
    "user_id", pa.array([1, 2]), np.array([4, 5, 6]), np.array([0, 2, 3]), None, 0, np.arange(3)
)
SECONDS = 1_600_000_000


@pytest.mark.parametrize(
    "at",
    [
        SECONDS,
        float(SECONDS),
        str(SECONDS),
        np.int64(SECONDS),
        "2020-09-13T12:26:40",
        "2020-09-13 14:26:40+02:00",
        datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC),
        pd.Timestamp(SECONDS, unit="s"),
        [SECONDS, "2020-09-13T12:26:40Z"],
        np.array([SECONDS, SECONDS]),
        pd.Series([SECONDS, SECONDS]),
    ],
)
def test_a_moment_is_a_date_or_seconds_for_all_or_for_each(at):
    asked = with_query_times(TWO, "queries", at)
    assert asked.asked_U.tolist() == [SECONDS * 1_000_000] * 2
    assert asked.part(1, 2).asked_U.tolist() == [SECONDS * 1_000_000]
    assert asked.part(1, 2).times_T.tolist() == [2]


def test_histories_without_events_lose_their_moment_with_them():
    some = Histories("user_id", pa.array([1, 2]), np.array([4]), np.array([0, 0, 1]), None, 0)
    some = with_query_times(
        Histories(some.key, some.keys, some.rows_T, some.offsets, None, 0, np.array([7])),
        "queries",
        [SECONDS, SECONDS + 1],
    )
    kept = some.not_empty()
    assert kept.asked_U.tolist() == [(SECONDS + 1) * 1_000_000]
    assert kept.sequences().times.tolist() == [7]


@pytest.mark.parametrize("at", ["20240531", "2024", 20240531, [SECONDS, 2024]])
def test_a_date_without_dashes_is_not_taken_for_seconds(at):
    with pytest.raises(DataError, match="a moment of 197.* Give an ISO date with dashes"):
        with_query_times(TWO, "queries", at)


def test_a_moment_that_is_missing_for_one_is_named():
    with pytest.raises(DataError, match="at holds no moment for history 1"):
        with_query_times(TWO, "queries", pd.Series([SECONDS, None]))


@pytest.mark.parametrize("at", ["soon", -1, float("nan"), float("inf"), "1969-01-01"])
def test_what_is_no_time_is_refused(at):
    with pytest.raises(DataError, match="which is no time since 1970. Give an ISO date"):
        with_query_times(TWO, "queries", at)


@pytest.mark.parametrize("reads", ["none", "events"])
def test_a_moment_that_nobody_reads_is_refused(reads):
    assert with_query_times(TWO, reads, None) is TWO
    with pytest.raises(ConfigError, match="at=5 cannot act"):
        with_query_times(TWO, reads, 5)
