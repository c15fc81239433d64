"""Histories come as lists or as a table; both become vocabulary rows."""

import logging

import jaxtyping
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from idbert.errors import DataError
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.vocabulary import Vocabulary
from idbert.retrieval.histories import Histories, read_histories

TABLE = pd.DataFrame(
    {
        "user_id": ["zoe", "ann", "zoe", "ann"],
        "item_id": ["item 02", "item 05", "item 01", "item 06"],
    }
)


def ids(read: Histories, vocabulary: Vocabulary) -> list[list[str]]:
    flat = vocabulary.ids_of(read.rows_T)
    return [flat[a:b] for a, b in zip(read.offsets, read.offsets[1:], strict=False)]


def test_a_table_with_other_columns_is_told_which_it_must_have(vocabulary: Vocabulary) -> None:
    table = TABLE.rename(columns={"user_id": "customer"})
    with pytest.raises(DataError, match="no column user_id; its columns: customer, item_id"):
        read_histories(table, vocabulary)


def test_lists_keep_their_order_and_are_numbered(vocabulary: Vocabulary) -> None:
    lists = [["item 03", "item 01"], [], ["item 02"]]
    read = read_histories(lists, vocabulary)
    assert (read.key, read.keys.to_pylist()) == ("history", [0, 1, 2])
    assert ids(read, vocabulary) == lists
    assert read.not_empty().keys.to_pylist() == [0, 2]
    assert ids(read.not_empty(), vocabulary) == [lists[0], lists[2]]


@pytest.mark.parametrize(
    "lists",
    [
        [np.array(["item 03", "item 01"], dtype=object)],
        [pd.Series(["item 03", "item 01"], index=[7, 7])],
        (("item 03", "item 01"),),
        np.array([["item 03", "item 01"]]),
        pd.Series([["item 03", "item 01"]], index=[7]),
    ],
)
def test_arrays_series_and_tuples_are_lists_too(lists: object, vocabulary: Vocabulary) -> None:
    assert ids(read_histories(lists, vocabulary), vocabulary) == [["item 03", "item 01"]]


@pytest.mark.parametrize("as_arrow", [False, True])
def test_a_table_without_times_is_read_in_the_order_of_its_rows(
    as_arrow: bool, vocabulary: Vocabulary
) -> None:
    table = pa.Table.from_pandas(TABLE, preserve_index=False) if as_arrow else TABLE
    read = read_histories(table, vocabulary)
    assert (read.key, read.keys.to_pylist()) == ("user_id", ["ann", "zoe"])
    assert ids(read, vocabulary) == [["item 05", "item 06"], ["item 02", "item 01"]]


def test_times_order_a_users_rows(vocabulary: Vocabulary) -> None:
    read = read_histories(TABLE.assign(timestamp=[1002, 1003, 1001, 1004]), vocabulary)
    assert ids(read, vocabulary) == [["item 05", "item 06"], ["item 01", "item 02"]]


def test_interactions_are_taken_as_they_are(log: pd.DataFrame, vocabulary: Vocabulary) -> None:
    interactions = read_interactions(log)
    read = read_histories(interactions, vocabulary)
    assert len(read) == log["user_id"].nunique()
    assert vocabulary.ids_of(read.rows_T) == interactions.column("item_id").to_pylist()


def test_unknown_items_are_skipped_counted_and_logged(
    vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read = read_histories([["new", "item 03"], ["item 01", "new", "newer"]], vocabulary)
    assert ids(read, vocabulary) == [["item 03"], ["item 01"]]
    assert read.num_skipped == 3
    assert "3 of 5 events skipped: the model does not know their items" in caplog.text


def test_behaviours_are_read_where_the_vocabulary_knows_them() -> None:
    log = pd.DataFrame({"user_id": [1, 1, 1], "item_id": [5, 6, 7], "timestamp": [1, 2, 3]})
    log["behaviour"] = ["view", "view", "buy"]
    settings = InteractionSettings(behaviour_column="behaviour")
    vocabulary = Vocabulary.from_interactions(read_interactions(log, settings))
    assert read_histories(log, vocabulary).behaviours_T.tolist() == [0, 0, 1]
    assert read_histories([[5, 6]], vocabulary).behaviours_T.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("histories", "words"),
    [
        (["item 01", "item 02"], r"2 of 2 histories are not lists .* is 'item 01'.*: \[history\]"),
        (
            [["item 01"], "item 02"],
            "1 of 2 histories are not lists of item ids; the first of them is 'item 02'",
        ),
        (
            "item 01",
            r"histories are lists of item ids, or a table with user_id and item_id; got str",
        ),
        ({"ann": ["item 01"]}, "got dict"),
        ([[1, 2]], "ids are integers, the vocabulary's are strings"),
        ([["item 01", 1]], "ids must be all strings or all integers"),
        ([["item 01", None]], r"1 of 2 ids are missing \(null\)"),
        (TABLE.rename(columns={"item_id": "item"}), "item_id"),
        (TABLE.assign(item_id=["item 01", None, "item 02", "item 03"]), "item_id"),
        (TABLE.iloc[:0], "DataFrame"),
    ],
)
def test_what_is_no_history_is_refused(
    histories: object, words: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as a caller's program does
    with pytest.raises(DataError, match=words):
        read_histories(histories, vocabulary)


def test_a_table_without_times_says_that_its_rows_count_as_in_order(caplog):
    vocabulary = Vocabulary(pa.array(["a", "b"]), np.array([0, 0, 0, 0, 2, 1]))
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"]})
    with caplog.at_level("WARNING"):
        read_histories(frame, vocabulary)
    assert "no column 'timestamp': the rows count as in order" in caplog.text
