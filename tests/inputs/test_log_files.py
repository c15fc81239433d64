"""Events keep their order, and files that cannot be read are named."""

from pathlib import Path

import duckdb
import jaxtyping
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idbert.errors import DataError
from idbert.inputs.interactions import InteractionSettings, read_interactions
from tests.inputs.small_logs import frame_of, items, write

# order ----------------------------------------------------------------------------------------


def test_events_are_sorted_by_user_then_time_then_place():
    rng = np.random.default_rng(0)
    frame = frame_of(
        user_id=rng.integers(0, 50, 20_000), timestamp=rng.integers(0, 5, 20_000)
    ).assign(item_id=np.arange(20_000))
    log = read_interactions(frame)
    expected = frame.sort_values(["user_id", "timestamp"], kind="stable")
    assert items(log) == expected.item_id.tolist()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_several_files_follow_each_other_in_the_order_of_their_names(ending: str, tmp_path: Path):
    for name, item in [("b", "second"), ("a", "first"), ("c", "third")]:
        frame = frame_of(item_id=[item], timestamp=[5])
        frame = frame[["timestamp", "item_id", "user_id"]] if name == "b" else frame
        path = tmp_path / f"{name}.{ending}"
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    write(tmp_path, "", "_SUCCESS")
    write(tmp_path, "notes", "README.md")
    assert items(read_interactions(tmp_path)) == ["first", "second", "third"]
    assert items(read_interactions(f"{tmp_path}/[ab].{ending}")) == ["first", "second"]


def test_a_chunked_table_keeps_its_order():
    table = pa.concat_tables(
        pa.table({"user_id": [1] * 5, "item_id": range(i, i + 5), "timestamp": [0] * 5})
        for i in range(0, 5000, 5)
    )
    assert items(read_interactions(table)) == list(range(5000))


def test_a_day_without_events_is_passed_over(tmp_path: Path):
    columns = ["user_id", "item_id", "timestamp"]
    days = [[(1, 5, 10)], [], [(1, 6, 20)]]
    for number, rows in enumerate(days):
        pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / f"day-{number}.parquet")
    assert read_interactions(tmp_path).to_pandas()["item_id"].tolist() == [5, 6]
    for number in (0, 2):
        (tmp_path / f"day-{number}.parquet").unlink()
    with pytest.raises(DataError):
        read_interactions(tmp_path)


def test_a_file_name_with_brackets_is_no_pattern(tmp_path: Path):
    write(tmp_path, "user_id,item_id,timestamp\n1,wrong,1\n", "log1.csv")
    path = write(tmp_path, "user_id,item_id,timestamp\n1,right,1\n", "log[1].csv")
    assert items(read_interactions(path)) == ["right"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_line_endings_and_blank_lines_do_not_matter(newline: str, tmp_path: Path):
    text = newline.join(["\ufeffuser_id,item_id,timestamp", '1,"two\nlines",3', "", "1,b,4", ""])
    assert items(read_interactions(write(tmp_path, text))) == ["two\nlines", "b"]


# files ----------------------------------------------------------------------------------------


HEADER = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.csv", b"", "is empty"),
        ("log.parquet", b"", "is empty"),
        ("log.csv", HEADER, "holds a header but no rows"),
        ("log.csv", b"PAR1" + b"\0" * 50, "is a parquet file, though its name ends in .csv"),
        ("log.csv", b"\x1f\x8b\x08", "is a gzip file"),
        ("log.tsv", b"PK\x03\x04", "is a zip archive"),
        ("log.csv", HEADER.encode() + b"1,\0,3\n", "is not text"),
        ("log.csv", HEADER.encode("utf-16"), "is written in UTF-16. Save it as UTF-8"),
        ("log.parquet", HEADER, "is not a parquet file.*looks like text"),
        ("log.parquet", b"PAR1" + b"\0" * 50, "is cut short or damaged"),
        ("log.xlsx", b"PK", "unknown ending '.xlsx'. What can be read: .csv"),
        ("log.csv", HEADER.encode() + b"1,\xff,3\n", "cannot be read: 1. near line 2.*utf-8"),
        ("log.csv", HEADER + "1,2,3\n1,2\n1,2,3,4\n", "cannot be read: 2. near line 3, '1,2'"),
        ("log.csv", HEADER + '1,"a"b,3\n', "quotes in it doubled"),
        ("log.csv", HEADER + "1,2,3\r\n1,2,3\n", "lines end in different ways"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(
    name: str, content: str | bytes, words: str, tmp_path: Path
):
    with pytest.raises(DataError, match=f"(?s){name}.*{words}"):
        read_interactions(write(tmp_path, content, name))


def test_a_table_without_rows_is_refused():
    with pytest.raises(DataError, match="DataFrame holds a header but no rows"):
        read_interactions(frame_of(item_id=["a"]).iloc[:0])


def test_a_missing_file_is_answered_with_the_nearest(tmp_path: Path):
    write(tmp_path, HEADER, "events.csv")
    with pytest.raises(DataError, match="no file or folder .*Did you mean 'events.csv'"):
        read_interactions(tmp_path / "event.csv")
    with pytest.raises(DataError, match="no file matches the pattern"):
        read_interactions(f"{tmp_path}/*.parquet")


def test_a_folder_that_cannot_be_read_as_one_log_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no file that can be read"):
        read_interactions(tmp_path)
    write(tmp_path, HEADER, "a.csv")
    frame_of(item_id=["a"]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="several formats .*a.csv, b.parquet"):
        read_interactions(tmp_path)


def test_files_that_disagree_in_the_type_of_ids_are_refused(tmp_path: Path):
    frame_of(item_id=[1]).to_parquet(tmp_path / "a.parquet")
    frame_of(item_id=["1"]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="integers in .*a.parquet but text in .*b.parquet"):
        read_interactions(tmp_path)


def test_a_bad_row_of_a_folder_is_named_by_file_and_row(tmp_path: Path):
    write(tmp_path, HEADER + "1,2,3\n1,2,3\n", "a.csv")
    write(tmp_path, HEADER + "1,2,3\n1,,3\n", "b.csv")
    with pytest.raises(DataError, match=r"b\.csv, row 2: column 'item_id' holds no value"):
        read_interactions(tmp_path)


def test_what_is_no_table_is_refused():
    jaxtyping.config.update("jaxtyping_disable", True)  # else the test's own check comes first
    try:
        with pytest.raises(DataError, match="cannot read interactions from a list"):
            read_interactions([1, 2])  # type: ignore[arg-type]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_too_little_memory_and_a_full_disk_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    frame = frame_of(item_id=np.arange(300_000))
    with pytest.raises(DataError, match="memory_limit=1MB.*Raise memory_limit.*TMPDIR"):
        read_interactions(frame, InteractionSettings(memory_limit="1MB"))

    def full(*_: object, **__: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    monkeypatch.setattr("idbert.inputs.staging.Staging.sorted_table", full)
    with pytest.raises(DataError, match="free disk space.*TMPDIR"):
        read_interactions(frame)


def test_a_log_beyond_the_memory_limit_is_spilled_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    rng = np.random.default_rng(0)
    frame = frame_of(item_id=rng.integers(0, 2**60, 1_000_000))
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "log.parquet")
    log = read_interactions(tmp_path / "log.parquet", InteractionSettings(memory_limit="64MB"))
    assert items(log)[:5] == frame.item_id[:5].tolist()
    assert list((tmp_path / "spill").iterdir()) == []
