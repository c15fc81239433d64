import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idbert.errors import DataError
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import FIRST_ITEM, UNK
from idbert.tables import Interactions

ODD_IDS = ["007", "7", "a,b", 'say "hi"', "two\nlines", "电影", " ", "", "é"]


def interactions(items: list, behaviours: list[str] | None = None) -> Interactions:
    columns = {
        "user_id": np.zeros(len(items), np.int64),
        "item_id": pa.array(items),
        "timestamp": np.arange(len(items)),
    }
    if behaviours:
        columns["behaviour"] = pa.array(behaviours)
    return Interactions(pa.table(columns), times_are_real=False)


def vocabulary(items: list) -> Vocabulary:
    return Vocabulary.from_interactions(interactions(items))


def test_items_stand_by_falling_count_then_by_id_behind_the_special_tokens():
    found = vocabulary(["b", "c", "a", "c", "b", "d"])
    assert found.ids.to_pylist() == ["b", "c", "a", "d"]
    assert found.counts_V.tolist() == [0, 0, 0, 0, 2, 2, 1, 1]
    assert len(found) == 8 and found.num_items == 4


def test_the_order_of_the_log_does_not_change_the_vocabulary():
    items = ["b", "c", "a", "c", "b", "d"]
    assert vocabulary(items).fingerprint() == vocabulary(items[::-1]).fingerprint()


def test_the_catalogue_is_the_whole_log_and_the_counts_are_the_training_parts():
    whole = interactions(["a", "b", "b", "b", "c", "c"])
    found = Vocabulary.from_interactions(whole, interactions(["a", "c", "c"]))
    assert found.ids.to_pylist() == ["c", "a", "b"]
    assert found.counts_V[FIRST_ITEM:].tolist() == [2, 1, 0]
    assert found.ids_of(found.never_trained) == ["b"]


def test_training_items_outside_the_catalogue_get_no_row():
    found = Vocabulary.from_interactions(interactions(["a"]), interactions(["a", "z"]))
    assert found.ids.to_pylist() == ["a"]


@pytest.mark.parametrize("ids", [ODD_IDS, [2**53 + 1, 2**53, -1, 0, 2**63 - 1]])
def test_ids_come_back_exactly_as_given(ids: list):
    found = vocabulary(ids)
    assert found.ids_of(found.rows(ids)) == ids


@pytest.mark.parametrize("ids", [ODD_IDS, [2**53 + 1, 2**53, -1, 0]])
def test_a_loaded_vocabulary_equals_the_saved_one(ids: list, tmp_path: Path):
    saved = Vocabulary.from_interactions(interactions(ids, ["view"] * len(ids)))
    saved.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert loaded.ids.equals(saved.ids)
    assert np.array_equal(loaded.counts_V, saved.counts_V)
    assert loaded.behaviours == ("view",)
    assert loaded.fingerprint() == saved.fingerprint()


@pytest.mark.parametrize(
    "given",
    [
        ["b", "never seen", "a"],
        np.array(["b", "never seen", "a"]),
        np.array(["b", "never seen", "a"], dtype=object),
        pd.Series(["b", "never seen", "a"]),
        pa.array(["b", "never seen", "a"]).dictionary_encode(),
        pa.chunked_array([["b"], ["never seen", "a"]]),
    ],
)
def test_rows_are_found_in_whatever_holds_the_ids_and_unknown_ids_are_unk(given):
    assert vocabulary(["a", "a", "b"]).rows(given).tolist() == [FIRST_ITEM + 1, UNK, FIRST_ITEM]


@pytest.mark.parametrize("given", [[3], np.array([3], np.int32), np.array([3], np.uint8)])
def test_integers_of_any_width_are_looked_up(given):
    assert vocabulary([3, 4]).rows(given).tolist() == [FIRST_ITEM]


def test_no_ids_have_no_rows():
    assert vocabulary(["a"]).rows([]).tolist() == []


def test_new_items_come_last_and_old_rows_stay():
    old = vocabulary(["a", "b", "b"])
    new = old.extend(["z", "a", "c", "z"])
    assert new.ids.to_pylist() == ["b", "a", "z", "c"]
    assert new.rows(["a", "b"]).tolist() == old.rows(["a", "b"]).tolist()
    assert new.counts_V.tolist() == [0, 0, 0, 0, 2, 1, 0, 0]
    assert old.extend(["a"]).fingerprint() == old.fingerprint()


def test_a_fingerprint_tells_other_rows_and_behaviours_apart():
    plain = pa.array(["ab", "c"])
    counts_V = np.zeros(6, np.int64)
    fingerprints = {
        Vocabulary(plain, counts_V).fingerprint(),
        Vocabulary(pa.array(["a", "bc"]), counts_V).fingerprint(),
        Vocabulary(pa.array(["c", "ab"]), counts_V).fingerprint(),
        Vocabulary(plain, counts_V, ("view",)).fingerprint(),
        Vocabulary(pa.array([1, 2]), counts_V).fingerprint(),
    }
    assert len(fingerprints) == 5


@pytest.mark.parametrize("ids", [["a", "电影", "ccc"], ["", "b", "cc"]])
def test_a_fingerprint_is_that_of_lengths_and_text_whatever_array_holds_them(ids: list):
    lengths = np.array([len(one.encode()) for one in ids], "<i8").tobytes()
    head = json.dumps(["string", []]).encode()
    expected = hashlib.sha256(head + lengths + "".join(ids).encode()).hexdigest()
    part = pa.array(["before", *ids, "after"]).slice(1, 3)
    for held in (pa.array(ids), part):
        assert Vocabulary(held, np.zeros(7, np.int64)).fingerprint() == expected


def test_a_fingerprint_does_not_depend_on_counts():
    ids = pa.array(["a"])
    assert (
        Vocabulary(ids, np.zeros(5, np.int64)).fingerprint()
        == Vocabulary(ids, np.arange(5)).fingerprint()
    )


def test_behaviours_are_numbered_from_the_most_frequent():
    log = interactions(["a"] * 6, ["cart", "buy", "view", "view", "view", "cart"])
    found = Vocabulary.from_interactions(log)
    assert found.behaviours == ("view", "cart", "buy")
    assert found.behaviour_rows(["buy", "view", "buy"]).tolist() == [2, 0, 2]


def test_an_unknown_behaviour_is_refused_with_the_nearest_name():
    found = Vocabulary.from_interactions(interactions(["a", "a"], ["view", "purchase"]))
    with pytest.raises(
        DataError, match=r"1 events .* 'purchace'; known: .* Did you mean 'purchase'"
    ):
        found.behaviour_rows(["view", "purchace"])


def test_integers_asked_of_a_vocabulary_of_strings_are_refused():
    with pytest.raises(
        DataError, match="ids are integers, the vocabulary's are strings; give them"
    ):
        vocabulary(["1", "2"]).rows([1, 2])


def test_strings_asked_of_a_vocabulary_of_integers_are_refused():
    with pytest.raises(DataError, match="ids are strings, the vocabulary's are integers"):
        vocabulary([1, 2]).rows(["1"])


def test_fractions_are_refused():
    with pytest.raises(DataError, match="ids are of type double, the vocabulary's are integers"):
        vocabulary([1, 2]).rows(np.array([1.0]))


def test_missing_ids_are_refused():
    with pytest.raises(DataError, match=r"1 of 2 ids are missing \(null\)"):
        vocabulary(["a"]).rows(pa.array(["a", None]))


def test_mixed_ids_are_refused():
    with pytest.raises(DataError, match="all strings or all integers"):
        vocabulary(["a"]).rows(np.array(["a", 1], dtype=object))


def test_an_integer_beyond_64_bits_is_refused():
    with pytest.raises(DataError, match="64 bits|does not fit int64"):
        vocabulary([1]).rows([2**64 - 1])


def test_an_empty_log_has_no_catalogue():
    empty = interactions(["a"]).filter(np.array([False]))
    with pytest.raises(DataError, match="no interactions, hence no items"):
        Vocabulary.from_interactions(empty)


@pytest.mark.parametrize("row", [UNK, 5, -1])
def test_a_row_without_an_item_has_no_id(row: int):
    with pytest.raises(DataError, match=f"row {row} holds no item: items stand in rows 4 to 4"):
        vocabulary(["a"]).ids_of(np.array([4, row]))


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="vocabulary.parquet is missing"):
        Vocabulary.load(tmp_path)


def test_a_half_copied_vocabulary_is_refused(tmp_path: Path):
    vocabulary([str(i) for i in range(100)]).save(tmp_path)
    path = tmp_path / "vocabulary.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="not a complete parquet file"):
        Vocabulary.load(tmp_path)


def test_a_foreign_parquet_file_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"id": [1], "count": [1]}), tmp_path / "vocabulary.parquet")
    with pytest.raises(
        DataError, match=r"not an idbert vocabulary of format 1 \(found: no format\)"
    ):
        Vocabulary.load(tmp_path)


def test_a_vocabulary_with_an_id_twice_is_refused(tmp_path: Path):
    Vocabulary(pa.array(["a", "a"]), np.zeros(6, np.int64)).save(tmp_path)
    with pytest.raises(DataError, match="holds an id twice"):
        Vocabulary.load(tmp_path)


def test_a_single_text_in_place_of_a_list_is_refused_and_not_read_letter_by_letter():
    vocabulary = Vocabulary(pa.array(["5", "0"]), np.zeros(6, np.int64))
    with pytest.raises(DataError, match=r"a list of ids, not the text '50'. Give \['50'\]."):
        vocabulary.rows("50")
