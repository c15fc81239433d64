"""Collections of texts are read from any table, and bad ids and texts are named."""

import json
from pathlib import Path

import pandas as pd
import pytest

from idbert.errors import DataError
from nlp_tasks.match.texts import TextFileSettings, read_texts

FRAME = pd.DataFrame({"id": ["b", "a", "c"], "text": ["one two", "三", "four"]})


def write(path: Path, frame: pd.DataFrame = FRAME) -> Path:
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_texts(tmp_path: Path, ending: str):
    found = read_texts(write(tmp_path / f"texts{ending}"))
    assert found.ids.to_pylist() == ["b", "a", "c"]
    assert found.texts == ["one two", "三", "four"] and len(found) == 3


def test_without_ids_rows_are_numbered_from_one(tmp_path: Path):
    found = read_texts(write(tmp_path / "texts.csv", FRAME[["text"]]))
    assert found.ids.to_pylist() == [1, 2, 3]


def test_a_text_file_is_one_text_a_line(tmp_path: Path):
    path = tmp_path / "texts.txt"
    path.write_text("one two\n\n  three \n", encoding="utf-8")
    found = read_texts(path)
    assert found.texts == ["one two", "three"] and found.ids.to_pylist() == [1, 3]


def test_quotes_may_be_parts_of_the_texts(tmp_path: Path):
    path = tmp_path / "texts.tsv"
    path.write_text('id\ttext\n7\t"Hello" he said\n8\t5" wide\n', encoding="utf-8")
    with pytest.raises(DataError, match="set quotes to false"):
        read_texts(path)
    assert read_texts(path, TextFileSettings(quotes=False)).texts == ['"Hello" he said', '5" wide']


def test_other_columns_are_named(tmp_path: Path):
    frame = FRAME.rename(columns={"id": "key", "text": "words"}).assign(key=[7, 8, 9])
    settings = TextFileSettings(text_column="words", id_column="key")
    assert read_texts(write(tmp_path / "t.parquet", frame), settings).ids.to_pylist() == [7, 8, 9]
    with pytest.raises(DataError, match="no column 'text'.*--index.text_column"):
        read_texts(tmp_path / "t.parquet", prefix="index.")
    ids = TextFileSettings(text_column="words", id_column="keys")
    with pytest.raises(DataError, match="no column 'keys'.*--id_column"):
        read_texts(tmp_path / "t.parquet", ids)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "holds 1 more than once .line 2"),
        ([{"id": 1, "text": "a"}, {"text": "b"}], "has no id in line 2"),
        ([{"id": 1, "text": "a"}, {"id": "x", "text": "b"}], "all text or all whole numbers"),
        ([{"id": 1.5, "text": "a"}], r"holds 1.5 \(line 1\)"),
        ([{"id": True, "text": "a"}], "holds True"),
        ([{"id": 1, "text": "a"}, {"id": 2, "text": " "}], "has no text in line 2"),
        ([{"id": 1, "text": ["a"]}], "is no text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[dict], message: str):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_texts(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    for ending in (".txt", ".jsonl"):
        with pytest.raises(DataError, match="there is no file"):
            read_texts(tmp_path / f"texts{ending}")
