"""Attributes of a table of items become numbers by the catalogue's rows."""

import numpy as np
import pandas as pd
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.attributes import attribute_rows
from idbert.inputs.interactions import read_interactions
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import FIRST_ITEM

LOG = pd.DataFrame(
    {"user_id": [1, 1, 1, 2], "item_id": ["a", "b", "c", "d"], "timestamp": [1, 2, 3, 4]}
)
ITEMS = pd.DataFrame(
    {
        "item_id": ["c", "a", "other", "b"],
        "genres": ["War|Drama", "Drama", "Epic", ""],
        "shelf": ["Drama", "top", "low", None],
    }
)


@pytest.fixture
def vocabulary() -> Vocabulary:
    log = read_interactions(LOG)
    return Vocabulary.from_interactions(log, log)


def named(numbers, vocabulary):
    """Return the numbers of each item without the filling."""
    rows = vocabulary.rows(["a", "b", "c", "d"])
    return [[int(n) for n in numbers[row] if n] for row in rows]


@pytest.mark.parametrize(
    "missing", [pd.NA, pd.NaT, None, float("nan")], ids=["NA", "NaT", "None", "nan"]
)
def test_an_item_without_a_value_has_no_attribute(missing, vocabulary):
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "year": [1999, missing, missing]})
    items = items.astype({"year": object})
    assert named(attribute_rows(items, ["year"], vocabulary), vocabulary) == [[1], [], [], []]


def test_each_value_of_a_column_is_one_attribute(vocabulary):
    genres = attribute_rows(ITEMS, ["genres"], vocabulary)
    assert named(genres, vocabulary) == [[1], [], [1, 2], []]
    both = attribute_rows(ITEMS, ["genres", "shelf"], vocabulary)
    assert named(both, vocabulary) == [[1, 4], [], [1, 2, 3], []]
    assert both.shape == (len(vocabulary), 3) and not both[:FIRST_ITEM].any()


@pytest.mark.parametrize(
    "values",
    [
        [["War", "Drama"], ["Drama"], ["Epic"], []],
        [np.array(["War", "Drama", "War"]), ["Drama"], ["Epic"], None],
        [" Drama | War ", "Drama|", "Epic", float("nan")],
    ],
)
def test_lists_and_strings_say_the_same_in_any_order(values, vocabulary):
    expected = attribute_rows(ITEMS, ["genres"], vocabulary)
    items = ITEMS.assign(genres=pd.Series(values, dtype=object))
    assert (attribute_rows(items, ["genres"], vocabulary) == expected).all()
    shuffled = items.sample(frac=1, random_state=0)
    assert (attribute_rows(shuffled, ["genres"], vocabulary) == expected).all()


def test_another_separator_splits_otherwise(vocabulary):
    items = ITEMS.assign(genres=["War Drama", "Drama", "Epic", ""])
    spaced = attribute_rows(items, ["genres"], vocabulary, separator=" ")
    assert (spaced == attribute_rows(ITEMS, ["genres"], vocabulary)).all()


def test_what_cannot_be_read_is_refused(vocabulary):
    with pytest.raises(DataError, match="no column 'genre' for data.attributes.*'genres'"):
        attribute_rows(ITEMS, ["genre"], vocabulary)
    with pytest.raises(ConfigError, match="no item of the catalogue has an attribute in genres"):
        attribute_rows(ITEMS[ITEMS["item_id"] == "other"], ["genres"], vocabulary)
    with pytest.raises(DataError, match="column 'genres': .* is no list of strings"):
        attribute_rows(ITEMS.assign(genres=[[1, 2]] * 4), ["genres"], vocabulary)
