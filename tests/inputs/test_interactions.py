"""Reading a behaviour log: ids and columns survive, and what cannot be read is named."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.tables import Interactions
from tests.inputs.small_logs import frame_of, items, times, users, write

STRANGE_IDS = ["a,b", 'say "hi"', "two\nlines", "红楼梦", " spaced ", "007", "O'Hara", "null-ish"]


# ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "tsv", "inter", "parquet", "frame", "table"])
def test_strange_ids_come_back_exactly_as_given(ending: str, tmp_path: Path):
    frame = frame_of(item_id=STRANGE_IDS)
    path = tmp_path / f"log.{ending}"
    source = {"frame": frame, "table": pa.Table.from_pandas(frame)}.get(ending, path)
    if ending == "parquet":
        frame.to_parquet(path)
    elif isinstance(source, Path):
        frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    log = read_interactions(source)
    assert items(log) == STRANGE_IDS
    assert log.table.schema.field("item_id").type == pa.string()
    assert times(log) == list(range(len(STRANGE_IDS)))


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63), 2**63 - 1, 0])
def test_large_integers_are_exact_in_every_format(number: int, tmp_path: Path):
    frame = frame_of(item_id=[number, 5])
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    for source in (frame, tmp_path / "log.csv", tmp_path / "log.parquet"):
        log = read_interactions(source)
        assert items(log) == [number, 5]
        assert log.table.schema.field("item_id").type == pa.int64()


@pytest.mark.parametrize("odd", ["007", "+7", "7.0", "1e3", " 7", "-0", str(2**63), "1_000"])
def test_a_column_of_a_text_file_is_text_if_one_id_is_no_canonical_integer(
    odd: str, tmp_path: Path
):
    path = write(tmp_path, f"user_id,item_id,timestamp\n1,7,0\n1,{odd},1\n")
    log = read_interactions(path)
    assert items(log) == ["7", odd]
    assert log.column("user_id").to_pylist() == [1, 1]


def test_text_in_a_typed_source_stays_text():
    assert items(read_interactions(frame_of(item_id=["1", "2"]))) == ["1", "2"]


def test_the_type_of_ids_can_be_chosen(tmp_path: Path):
    path = write(tmp_path, "user_id,item_id,timestamp\n1,7,0\n1,8,1\n")
    assert items(read_interactions(path, InteractionSettings(id_type="string"))) == ["7", "8"]
    as_integer = InteractionSettings(id_type="integer")
    frame = frame_of(user_id=["1", "1"], item_id=["7", "8"])
    assert items(read_interactions(frame, as_integer)) == [7, 8]
    with pytest.raises(DataError, match=r"row 2: column 'item_id' holds '08', not an integer"):
        read_interactions(frame_of(user_id=["1", "1"], item_id=["7", "08"]), as_integer)


def test_1_beside_text_1_is_refused_and_not_merged():
    with pytest.raises(DataError, match=r"mixes types: 1 \(int, row 1\) and '1' \(str, row 3\)"):
        read_interactions(frame_of(item_id=[1, 2, "1"]))
    mixed = pd.Series([1, "1", 1]).astype("category")
    with pytest.raises(DataError, match="mixes types: 1 .* and '1'"):
        read_interactions(frame_of(item_id=mixed))


def test_categories_and_object_columns_are_read():
    assert items(read_interactions(frame_of(item_id=pd.Categorical(["b", "a"])))) == ["b", "a"]
    assert items(read_interactions(frame_of(item_id=pd.Categorical([4, 2])))) == [4, 2]
    assert items(read_interactions(frame_of(item_id=pd.Series([4, 2], dtype=object)))) == [4, 2]


def test_whole_decimals_of_a_database_are_integers():
    table = pa.table({"user_id": ["u"], "timestamp": [1]})
    decimal = pa.array([2**53 + 1], pa.int64()).cast(pa.decimal128(38, 0))
    assert items(read_interactions(table.append_column("item_id", decimal))) == [2**53 + 1]


def test_float_ids_are_refused_and_the_missing_one_named():
    with pytest.raises(DataError, match=r"row 2: .*'item_id' holds no value.*became floating"):
        read_interactions(frame_of(item_id=[1, None, 3]))
    with pytest.raises(DataError, match="holds floating-point numbers, which cannot be ids"):
        read_interactions(frame_of(item_id=[1.0, 2.0]))


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_missing_ids_are_counted_and_the_first_five_shown(column: str, tmp_path: Path):
    ids = ["a", None, "b", "", "", None, "", "", "c"]
    frame = frame_of(**{column: pd.Series(ids, dtype=object)})
    for source in (frame, tmp_path / "log.parquet", tmp_path / "log.csv"):
        if isinstance(source, Path):
            frame.to_csv(source, index=False) if source.suffix == ".csv" else frame.to_parquet(
                source
            )
        with pytest.raises(DataError) as refusal:
            read_interactions(source)
        message = str(refusal.value)
        assert f"row 2: column '{column}' holds no value, which is no id" in message
        assert "6 rows are like this, the first 5" in message
        assert "row 7" in message and "row 8" not in message


@pytest.mark.parametrize("word", ["NaN", "nan", "null", "NULL", "None", '""'])
def test_words_for_a_missing_value_are_no_ids_in_a_text_file(word: str, tmp_path: Path):
    path = write(tmp_path, f"user_id,item_id,timestamp\nu,a,1\nu,{word},2\n")
    with pytest.raises(DataError, match="log.csv, row 2: column 'item_id' holds no value"):
        read_interactions(path)


@pytest.mark.parametrize(
    ("values", "held"),
    [([True, False], "bool"), ([b"a", b"b"], "binary"), ([[1], [2]], "list")],
)
def test_ids_of_an_unusable_type_are_refused(values: list[object], held: str):
    with pytest.raises(DataError, match=f"column 'item_id' is of type {held}"):
        read_interactions(frame_of(item_id=pd.Series(values)))


def test_dates_as_ids_are_refused():
    with pytest.raises(DataError, match="holds times, which cannot be ids"):
        read_interactions(frame_of(item_id=pd.to_datetime(["2024-01-01"])))


def test_unsigned_numbers_beyond_64_bits_are_refused():
    with pytest.raises(DataError, match="does not fit into 64 bits"):
        read_interactions(frame_of(item_id=np.array([2**63], dtype=np.uint64)))


# columns --------------------------------------------------------------------------------------


def test_typed_headers_of_atomic_files_match_plain_names(tmp_path: Path):
    text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t881250949\n"
    log = read_interactions(write(tmp_path, text, "ml.inter"))
    assert items(log) == [2]
    assert times(log) == [881_250_949_000_000]


def test_columns_are_read_by_their_given_names():
    frame = pd.DataFrame({"who": [1], "what": [2], "when": [3], "how": ["buy"], "much": [0.5]})
    settings = InteractionSettings("who", "what", "when", "how", "much")
    log = read_interactions(frame, settings)
    assert log.table.to_pylist() == [
        {"user_id": 1, "item_id": 2, "timestamp": 3, "behaviour": "buy", "weight": 0.5}
    ]
    assert log.table.schema.field("weight").type == pa.float32()


@pytest.mark.parametrize("near", ["userid", "UserID", "user id", "user_ids"])
def test_a_misnamed_column_is_answered_with_the_nearest(near: str):
    frame = frame_of(item_id=["a"]).rename(columns={"user_id": near})
    with pytest.raises(DataError, match=f"no column 'user_id'.*Did you mean '{near}'.*user_column"):
        read_interactions(frame)


def test_a_file_without_a_header_is_recognised(tmp_path: Path):
    path = write(tmp_path, "196\t242\t3\t881250949\n186\t302\t3\t891717742\n", "u.tsv")
    with pytest.raises(DataError, match="first line seems to be data: write a header"):
        read_interactions(path)


@pytest.mark.parametrize(("sign", "name"), [("\t", "tabs"), (";", "semicolons")])
def test_another_separator_is_recognised(sign: str, name: str, tmp_path: Path):
    path = write(tmp_path, f"user_id{sign}item_id{sign}timestamp\n1{sign}2{sign}3\n")
    with pytest.raises(DataError, match=f"separated by {name}, which .csv is not"):
        read_interactions(path)


def test_a_column_that_stands_there_twice_is_refused(tmp_path: Path):
    path = write(tmp_path, "user_id,item_id,item_id,timestamp\n1,2,3,4\n")
    with pytest.raises(DataError, match="2 columns named 'item_id'"):
        read_interactions(path)


def test_columns_that_are_not_wanted_may_be_anything(tmp_path: Path):
    path = write(tmp_path, 'x,user_id,x,item_id,"y""\n",timestamp\n,1,b,2,,3\n')
    assert items(read_interactions(path)) == [2]
    frame = frame_of(item_id=["a"])
    frame["mixed"] = pd.Series([{1: 2}], dtype=object)
    assert items(read_interactions(frame)) == ["a"]


def test_an_index_in_place_of_a_column_is_recognised():
    with pytest.raises(DataError, match="'user_id' is the index: call reset_index"):
        read_interactions(frame_of(item_id=["a"]).set_index("user_id"))


# optional columns -----------------------------------------------------------------------------


def test_behaviours_may_be_numbers_and_must_be_there():
    settings = InteractionSettings(behaviour_column="behaviour")
    log = read_interactions(frame_of(behaviour=[1, 2]), settings)
    assert log.column("behaviour").to_pylist() == ["1", "2"]
    with pytest.raises(DataError, match="row 2: column 'behaviour' holds no value"):
        read_interactions(frame_of(behaviour=["buy", None]), settings)
    with pytest.raises(DataError, match="holds floats, not the names of behaviours"):
        read_interactions(frame_of(behaviour=[0.5]), settings)


@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (-1, "'-1'"),
        (float("inf"), "'inf'"),
        (1e300, "'1e\\+300'"),
        ("much", "'much'"),
        (None, "no"),
    ],
)
def test_a_weight_that_is_no_finite_number_of_at_least_0_is_refused(weight: object, shown: str):
    settings = InteractionSettings(weight_column="weight")
    good = read_interactions(frame_of(weight=["0", "1.5"]), settings)
    assert good.column("weight").to_pylist() == [0.0, 1.5]
    series = pd.Series([weight], dtype="float64" if weight is None else None)
    with pytest.raises(DataError, match=f"row 1: column 'weight' holds {shown}.*not a finite"):
        read_interactions(frame_of(weight=series), settings)


# settings -------------------------------------------------------------------------------------


def test_duplicated_rows_are_kept_and_counted(caplog: pytest.LogCaptureFixture):
    frame = frame_of(item_id=["a", "b", "a", "a", "a"], timestamp=[1, 1, 1, 1, 2])
    with caplog.at_level(logging.INFO):
        log = read_interactions(frame)
    assert items(log) == ["a", "b", "a", "a", "a"]
    assert "2 rows repeat another (kept)" in caplog.text


def test_every_filter_setting_acts():
    frame = frame_of(
        user_id=list("aaaabbc"), item_id=list("xxyzxyx"), timestamp=[0, 1, 2, 3, 0, 1, 0]
    )
    acting: list[tuple[InteractionSettings, Callable[[Interactions], bool]]] = [
        (InteractionSettings(min_user_events=2), lambda log: "c" not in users(log)),
        (InteractionSettings(min_item_events=2), lambda log: "z" not in items(log)),
        (InteractionSettings(drop_repeats=True), lambda log: items(log)[:3] == ["x", "y", "z"]),
    ]
    for settings, holds in acting:
        assert not holds(read_interactions(frame))
        assert holds(read_interactions(frame, settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_user_events": 0}, "min_user_events must be at least 1, not 0"),
        ({"min_item_events": -1}, "min_item_events must be at least 1, not -1"),
        ({"item_column": "user_id"}, "must be three columns"),
        ({"memory_limit": "lots"}, "memory_limit must be a number and KB, MB, GB or TB"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        InteractionSettings(**settings)  # type: ignore[arg-type]
