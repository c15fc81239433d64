"""Reading tables of texts: every format gives the same rows, and what cannot be read is named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idbert.errors import DataError
from nlp_tasks.tables import TextTable, read_table

STRANGE = [
    "a,b",
    'say "hi"',
    "two\nlines",
    "tab\there",
    "红楼梦🀄",
    " spaced ",
    "007",
    "\u2028",
    "#x",
]


def write(folder: Path, text: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def json_lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet", "frame"])
def test_strange_texts_come_back_exactly_from_every_format(ending: str, tmp_path: Path):
    frame = pd.DataFrame({"text": STRANGE, "label": "x"})
    path = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text(json_lines(*frame.to_dict("records")), encoding="utf-8")
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    table = read_table(frame if ending == "frame" else path)
    assert table.columns["text"] == STRANGE
    assert len(table) == len(STRANGE) and list(table.columns) == ["text", "label"]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(ending: str, tmp_path: Path):
    text = '{"text": "好"}\r\n{"text": "b"}\r\n' if ending == "jsonl" else "text\r\n好\r\nb\r\n"
    path = write(tmp_path, b"\xef\xbb\xbf" + text.encode(), f"rows.{ending}")
    assert read_table(path).columns == {"text": ["好", "b"]}


def test_a_key_that_a_row_lacks_is_a_missing_value(tmp_path: Path):
    path = write(tmp_path, json_lines({"text": "a"}, {"text": "b", "label": 1}))
    assert read_table(path).columns == {"text": ["a", "b"], "label": [None, 1]}


def test_missing_values_and_arrays_of_a_frame_become_plain():
    labels = pd.Series([np.array(["x", "y"]), None, np.int64(3)], dtype=object)
    frame = pd.DataFrame({"text": ["a", None, "c"], "labels": labels, "size": [1.0, np.nan, 2.0]})
    columns = read_table(frame).columns
    assert columns == {
        "text": ["a", None, "c"],
        "labels": [["x", "y"], None, 3],
        "size": [1.0, None, 2.0],
    }
    assert type(columns["labels"][2]) is int


def test_a_text_longer_than_the_csv_modules_limit_is_read(tmp_path: Path):
    long = "x" * 200_000
    assert read_table(write(tmp_path, f"text\n{long}\n", "rows.csv")).columns["text"] == [long]


def test_rows_are_named_by_the_line_on_which_they_begin(tmp_path: Path):
    path = write(tmp_path, 'text\n"two\nlines"\n\nlast\n', "rows.csv")
    table = read_table(path)
    assert table.columns["text"] == ["two\nlines", "last"]
    assert table.where([1]) == "line 5"
    path = write(tmp_path, '{"text": "a"}\n\n{"text": "b"}\n')
    assert read_table(path).where([0, 1]) == "2 rows, lines 1, 3"
    many = TextTable("DataFrame", {"text": ["a"] * 5000})
    assert many.where(range(2000, 2007)) == (
        "7 rows, rows 2,001, 2,002, 2,003, 2,004, 2,005 (the first 5)"
    )


def test_quotation_marks_are_part_of_the_text_where_quotes_are_off(tmp_path: Path):
    path = write(tmp_path, 'text\tlabel\n"so called\t1\n5" wide\t0\n', "rows.tsv")
    assert read_table(path, quotes=False).columns["text"] == ['"so called', '5" wide']


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", b"", "holds no rows"),
        ("rows.csv", b"text,label\n", "holds no rows"),
        ("rows.jsonl", b"\n\n", "holds no rows"),
        ("rows.txt", b"a\n", r"unknown ending '.txt'. What can be read: .jsonl \(one object a"),
        ("rows.csv", b"PAR1....", "is a parquet file, though its name ends in .csv"),
        ("rows.csv", b"PK\x03\x04...", "is a zip archive, as Excel's files are"),
        ("rows.csv", "text\n好\n".encode("utf-16"), "written in UTF-16.*iconv -f UTF-16 -t UTF-8"),
        ("rows.csv", b"text\nab\0c\n", "holds zero bytes"),
        ("rows.parquet", b"text\na\n", "is not a parquet file, or is cut short"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": \n', 'line 2 is not JSON: .{"text":'),
        ("rows.jsonl", b'["a"]\n', "line 1 holds .*, not an object. Write one object a line"),
        ("rows.csv", b"text,label\na,1\nb,c,2\n", "line 3 has 3 fields, and the header 2: 'b,c,2'"),
        ("rows.csv", b"text,label\na\n", "line 2 has 1 fields"),
        (
            "rows.tsv",
            b'text\tl\n"so\t1\nb\t0\n',
            "line 2: a double quote is not closed .* quotes to",
        ),
        ("rows.csv", b"text,text\na,b\n", "several columns named 'text'"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes, words: str, tmp_path: Path):
    with pytest.raises(DataError, match=words):
        read_table(write(tmp_path, content, name))


def test_a_wrong_encoding_is_named_with_its_place_and_what_to_do(tmp_path: Path):
    content = "text,label\n好书,1\n".encode("gb18030")
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, content, "rows.csv"))
    words = str(caught.value)
    assert "is not UTF-8: line 2 holds the byte 0xba (at 11)" in words
    assert "GB18030 (GBK)" in words
    assert "iconv -f GB18030 -t UTF-8 rows.csv > rows.utf8.csv" in words


def test_the_place_of_a_wrong_byte_counts_the_byte_order_mark(tmp_path: Path):
    with pytest.raises(DataError, match=r"line 1 holds the byte 0xff \(at 4\)"):
        read_table(write(tmp_path, b"\xef\xbb\xbfa\xff", "rows.csv"))


def test_a_misspelt_file_and_column_are_suggested(tmp_path: Path):
    write(tmp_path, json_lines({"text": "a"}), "train.jsonl")
    with pytest.raises(DataError, match="there is no file .* Did you mean 'train.jsonl'"):
        read_table(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="no column 'txt'; its columns: text. Did you mean 'text'"):
        read_table(tmp_path / "train.jsonl").column("txt", "text_columns")


def test_two_columns_of_one_name_are_refused_in_a_frame():
    frame = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(DataError, match="DataFrame has several columns named 'text'"):
        read_table(frame)
