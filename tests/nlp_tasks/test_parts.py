"""The parts of a classification's data."""

from dataclasses import replace
from pathlib import Path

import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.cls.parts import ClassificationData, read_parts
from tests.nlp_tasks.text_world import texts, write


@pytest.fixture
def data(tmp_path: Path) -> ClassificationData:
    return ClassificationData(train=str(write(texts(60), tmp_path / "train.jsonl")))


def other(tmp_path: Path, name: str, count: int = 9) -> str:
    return str(write(texts(count, seed=1), tmp_path / name))


def test_train_and_held_out_rows_are_the_whole_file(data):
    parts = read_parts(data)
    (fold,) = parts.folds
    rows = sorted([*fold.train.rows_N, *fold.validation.rows_N])
    assert rows == list(range(60)) and len(fold.validation) == 6
    assert fold.name == "model" and parts.evaluated == {"validation": fold.validation}


def test_the_share_and_the_seed_of_what_is_held_out_act(data):
    held = {
        name: read_parts(replace(data, **change)).folds[0].validation.rows_N.tolist()
        for name, change in {
            "": {}, "again": {}, "share": {"dev_share": 0.5}, "seed": {"split_seed": 1}
        }.items()
    }  # fmt: skip
    assert held[""] == held["again"] != held["seed"]
    assert len(held["share"]) == 30


def test_a_dev_file_leaves_all_training_rows_to_training(data, tmp_path):
    parts = read_parts(replace(data, dev=other(tmp_path, "dev.jsonl")))
    assert len(parts.folds[0].train) == 60 and len(parts.folds[0].validation) == 9
    assert list(parts.evaluated) == ["validation"]


def test_without_a_share_nothing_is_held_out(data, tmp_path):
    parts = read_parts(replace(data, dev_share=0, test=other(tmp_path, "test.jsonl", 7)))
    assert parts.folds[0].validation is None and len(parts.folds[0].train) == 60
    assert {name: len(rows) for name, rows in parts.evaluated.items()} == {"test": 7}


def test_every_row_is_held_out_by_one_fold(data, tmp_path):
    parts = read_parts(replace(data, folds=3))
    assert [fold.name for fold in parts.folds] == ["model-1", "model-2", "model-3"]
    held = [row for fold in parts.folds for row in fold.validation.rows_N]
    assert sorted(held) == list(range(60)) and parts.evaluated == {}
    for fold in parts.folds:
        assert not set(fold.train.rows_N) & set(fold.validation.rows_N)
    with_dev = read_parts(replace(data, folds=3, dev=other(tmp_path, "dev.jsonl")))
    assert list(with_dev.evaluated) == ["validation"]
    assert len(with_dev.folds[0].validation) == 20  # of its own rows, not of the dev file


def test_labels_are_those_of_the_training_rows(data, tmp_path):
    strange = texts(9, classes=("good", "strange"))
    with pytest.raises(DataError, match="1 labels that are not among the 3 of the training rows"):
        read_parts(replace(data, test=str(write(strange, tmp_path / "test.jsonl"))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 0}, "folds is 0; it must be at least 1"),
        ({"dev_share": 1.0}, "dev_share is 1.0; choose from 0 to below 1"),
        ({"dev_share": 0.1, "dev": "x.jsonl"}, "cannot act beside the dev file x.jsonl"),
        ({"dev_share": 0.1, "folds": 2}, "cannot act with 2 folds"),
        ({"text_columns": ()}, "text_columns is empty"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ClassificationData(**settings)
