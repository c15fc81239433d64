"""Times are read however they are written, and those that cannot be are named."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from idbert.errors import DataError
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.tables import Interactions
from tests.inputs.small_logs import NOON, frame_of, items, times, write


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        float(NOON),
        str(NOON),
        f"{NOON}.0",
        NOON * 10**3,
        NOON * 10**6,
        NOON * 10**9,
        "2023-11-14T22:13:20",
        "2023-11-14 22:13:20Z",
        "2023-11-15T06:13:20+08:00",
        pd.Timestamp(NOON, unit="s"),
        pd.Timestamp(NOON, unit="s", tz="UTC").tz_convert("Asia/Shanghai"),
    ],
)
def test_every_way_to_write_a_time_gives_the_same_microseconds(moment: object, tmp_path: Path):
    frame = frame_of(timestamp=pd.Series([moment]))
    frame.to_parquet(tmp_path / "log.parquet")
    frame.to_csv(tmp_path / "log.csv", index=False)
    for source in (frame, tmp_path / "log.parquet", tmp_path / "log.csv"):
        log = read_interactions(source)
        assert log.times_are_real
        assert times(log) == [NOON * 10**6]


def test_parts_of_a_second_are_kept():
    assert times(read_interactions(frame_of(timestamp=[NOON + 0.25]))) == [NOON * 10**6 + 250_000]
    assert times(read_interactions(frame_of(timestamp=[NOON * 1000 + 7]))) == [NOON * 10**6 + 7000]


def test_dates_are_midnight_utc(tmp_path: Path):
    path = write(tmp_path, "user_id,item_id,timestamp\n1,2,2023-11-14\n")
    assert times(read_interactions(path)) == [1_699_920_000_000_000]
    date = pa.array([1_699_920_000_000], pa.date64())
    table = pa.table({"user_id": [1], "item_id": [2], "timestamp": date})
    assert times(read_interactions(table)) == [1_699_920_000_000_000]


def test_small_numbers_are_positions():
    log = read_interactions(frame_of(timestamp=[2, 0, 1], item_id=["c", "a", "b"]))
    assert not log.times_are_real
    assert times(log) == [0, 1, 2]
    assert items(log) == ["a", "b", "c"]


@pytest.mark.parametrize("written", [[20240531, 20231120], [20240531183000, 20231120072900]])
@pytest.mark.parametrize("as_text", [False, True])
def test_digits_of_dates_are_taken_for_no_number(written: list[int], as_text: bool):
    moments = [str(moment) for moment in written] if as_text else written
    log = frame_of(timestamp=moments, item_id=["a", "b"])
    with pytest.raises(DataError, match="look like dates written as YYYYMMDD"):
        read_interactions(log)
    told = read_interactions(log, InteractionSettings(time_unit="positions"))
    assert times(told) == sorted(written)


def test_positions_may_be_as_large_as_dates():
    assert not read_interactions(
        frame_of(timestamp=[0, 20240531], item_id=["a", "b"])
    ).times_are_real


def test_the_time_unit_acts():
    def read(unit: str, moment: object = 1_000_000) -> tuple[list[int], bool]:
        log = read_interactions(
            frame_of(timestamp=[moment]),
            InteractionSettings(time_unit=unit),  # type: ignore[arg-type]
        )
        return times(log), log.times_are_real

    assert read("auto") == ([1_000_000], False)
    assert read("positions", 2**53 + 1) == ([2**53 + 1], False)
    assert read("seconds") == ([1_000_000_000_000], True)
    assert read("milliseconds") == ([1_000_000_000], True)
    assert read("microseconds") == ([1_000_000], True)
    assert read("nanoseconds") == ([1000], True)
    assert read("iso", "1970-01-01T00:00:01") == ([1_000_000], True)


def test_an_unreadable_time_is_named_with_row_and_value(tmp_path: Path):
    path = write(tmp_path, "user_id,item_id,timestamp\nu,a,1\nu,b,yesterday\nu,c,inf\n")
    with pytest.raises(DataError) as refusal:
        read_interactions(path)
    assert "log.csv, row 2: column 'timestamp' holds 'yesterday', not a number." in str(
        refusal.value
    )
    assert "row 3 'inf'" in str(refusal.value)
    assert "Give seconds since 1970-01-01 UTC" in str(refusal.value)
    assert "time_column" in str(refusal.value)


def test_a_number_among_dates_is_the_one_refused(tmp_path: Path):
    path = write(tmp_path, "user_id,item_id,timestamp\nu,a,2024-01-01\nu,b,2024-01-02\nu,c,5\n")
    with pytest.raises(DataError, match="row 3: column 'timestamp' holds '5', not an ISO date"):
        read_interactions(path)


@pytest.mark.parametrize(
    ("moment", "shown"),
    [(-5, "'-5'"), (-0.5, "'-0.5'"), ("-5", "'-5'"), (pd.Timestamp("1969-12-31"), "'1969-12-31")],
)
def test_a_negative_time_is_named_with_row_and_value(moment: object, shown: str):
    with pytest.raises(DataError, match=f"row 1: column 'timestamp' holds {shown}.*(negat|before)"):
        read_interactions(frame_of(timestamp=pd.Series([moment])))


@pytest.mark.parametrize("dtype", [object, "float64", "datetime64[s]", "str"])
def test_a_missing_time_is_refused(dtype: object):
    with pytest.raises(DataError, match=r"row 1: column 'timestamp' holds no value"):
        read_interactions(frame_of(timestamp=pd.Series([None], dtype=dtype)))


def test_a_wrong_time_unit_is_refused():
    def read(moment: object, unit: str) -> Interactions:
        settings = InteractionSettings(time_unit=unit)  # type: ignore[arg-type]
        return read_interactions(frame_of(timestamp=pd.Series([moment])), settings)

    with pytest.raises(DataError, match="in seconds is after the year 9999"):
        read(NOON * 1000, "seconds")
    with pytest.raises(DataError, match="in nanoseconds is after the year 9999"):
        read(1e300, "auto")
    with pytest.raises(DataError, match="holds numbers, not ISO dates"):
        read(NOON, "iso")
    with pytest.raises(DataError, match="time_unit=seconds cannot act"):
        read(pd.Timestamp("2024-01-01"), "seconds")
    with pytest.raises(DataError, match="no position: not a whole number"):
        read(0.5, "positions")
