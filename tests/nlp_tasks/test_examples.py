"""Examples of classification: what is read, which kind of label it is, and what is refused."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from idbert.errors import CheckpointError, ConfigError, DataError
from nlp_tasks.cls.examples import ExampleSettings, LabelMap, read_examples, read_texts

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


def frame_of(labels: list[Any], **columns: Any) -> pd.DataFrame:
    texts = [f"text {number}" for number in range(len(labels))]
    return pd.DataFrame({"text": texts} | columns | {"label": pd.Series(labels, dtype=object)})


def names_of(labels: list[Any], **settings: Any) -> tuple[str, ...]:
    read = read_examples(frame_of(labels), ExampleSettings(**settings)).labels
    assert read is not None
    return read.names


def kind_of(labels: list[Any], **settings: Any) -> str:
    read = read_examples(frame_of(labels), ExampleSettings(**settings)).labels
    assert read is not None
    return read.kind


# texts ----------------------------------------------------------------------------------------


def test_the_samples_are_what_their_description_says():
    reviews = read_examples(SAMPLES / "reviews.jsonl", ExampleSettings())
    assert reviews.labels == LabelMap("single", ("bad", "good", "mixed"))
    assert np.bincount(reviews.targets).tolist() == [28, 28, 24]
    assert sum(text.isascii() for text in reviews.texts) == 40
    assert len(set(reviews.texts)) == len(reviews) == 80
    assert len(read_texts(SAMPLES / "reviews-new.jsonl", ExampleSettings())) == 8


def test_a_pair_gives_first_and_second_texts():
    frame = frame_of([0, 1], a=["x", "y"], b=["u", "v"])
    examples = read_examples(frame, ExampleSettings(text_columns=("b", "a"), pair=True))
    assert (examples.texts, examples.pairs) == (["u", "v"], ["x", "y"])


def test_several_columns_are_joined_and_empty_ones_left_out():
    frame = frame_of([0, 1, 0], a=["x", None, "z"], b=["u", "v", ""], c=[1, 2, 3])
    settings = ExampleSettings(text_columns=("a", "b", "c"), joiner="|")
    examples = read_examples(frame, settings)
    assert examples.texts == ["x|u|1", "v|2", "z|3"] and examples.pairs is None


def test_chosen_examples_keep_their_places():
    frame = frame_of(["n", "y", "n"], b=["u", "v", "w"])
    examples = read_examples(frame, ExampleSettings(text_columns=("text", "b"), pair=True))
    chosen = examples.take(np.array([2, 0, 2]))
    assert chosen.texts == ["text 2", "text 0", "text 2"] and chosen.pairs == ["w", "u", "w"]
    assert chosen.targets.tolist() == [0, 0, 0] and chosen.rows_N.tolist() == [2, 0, 2]
    assert chosen.take(np.array([1])).rows_N.tolist() == [0]
    assert chosen.labels is examples.labels


@pytest.mark.parametrize("empty", ["", "  \n", None, float("nan")])
def test_empty_texts_are_named_by_row(empty: Any):
    frame = frame_of([0, 1, 0])
    frame["text"] = pd.Series(["a", empty, "c"], dtype=object)
    with pytest.raises(DataError, match="column 'text' has no text in row 2. Fill these rows"):
        read_examples(frame, ExampleSettings())
    assert len(read_texts(frame, ExampleSettings(), allow_empty=True)) == 3


def test_an_empty_second_text_is_named_by_its_column():
    frame = frame_of([0, 1], b=["u", ""])
    with pytest.raises(DataError, match="column 'b' has no text in row 2"):
        read_examples(frame, ExampleSettings(text_columns=("text", "b"), pair=True))


def test_a_column_of_lists_is_no_text():
    frame = frame_of([0, 1], tokens=[["a"], ["b"]])
    with pytest.raises(DataError, match=r"column 'tokens' holds \['a'\], which is no text"):
        read_examples(frame, ExampleSettings(text_columns=("tokens",)))


def test_reading_leaves_the_file_as_it_is(tmp_path: Path):
    path = tmp_path / "train.csv"
    path.write_bytes(content := "text,label\r\n好,1\r\nb,0\r\n".encode())
    read_examples(path, ExampleSettings())
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_half_a_character_is_named_by_its_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "好", "label": 0}\n{"text": "\\ud83d", "label": 1}\n', "utf-8")
    with pytest.raises(DataError, match=r"holds half a character.*\(line 2\)"):
        read_examples(path, ExampleSettings())


# kinds of labels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["good", "bad"], "single"),
        ([0, 1, 7], "single"),
        ([True, False], "single"),
        ([0.0, 1.0, 2.0], "single"),
        ([3.5, 4.0] * 30, "single"),
        (list(range(100)), "single"),
        ([10**400, 1], "single"),
        ([0.5 * number for number in range(100)], "number"),
        ([str(0.5 * number) for number in range(100)], "number"),
        ([0.5, 1.25, 2.0, 0.5], "number"),
        (["1.5", "2.5", "many"], "single"),
        ([["a"], ["a", "b"], []], "multi"),
        (["1.5", "2", "nan"], "single"),
    ],
)
def test_the_kind_of_labels_is_seen_from_their_values(labels: list[Any], kind: str):
    assert kind_of(labels) == kind


def test_the_kind_can_be_named_instead_and_is_logged_where_it_was_guessed(caplog: Any):
    with caplog.at_level(logging.INFO):
        assert kind_of([0.5, 1.25, 2.0], kind="single") == "single"
        assert "of kind" not in caplog.text
        assert kind_of([0, 1, 2]) == "single"
        assert "column 'label' of DataFrame holds labels of kind single" in caplog.text
    assert kind_of([0, 1, 2], kind="number") == "number"


def test_integer_labels_with_holes_are_names_in_the_order_of_their_numbers():
    examples = read_examples(frame_of([10, 2, -1, 10]), ExampleSettings())
    assert examples.labels == LabelMap("single", ("-1", "2", "10"))
    assert examples.targets.tolist() == [2, 1, 0, 2] and examples.targets.dtype == np.int64


def test_one_label_written_in_several_types_is_one_label():
    assert names_of([1, 1.0, "1", " 1 ", 0]) == ("0", "1")
    assert names_of([True, "true", False]) == ("false", "true")


def test_the_map_does_not_depend_on_the_order_of_the_rows():
    assert names_of(["b", "a", "c"]) == names_of(["c", "b", "a"]) == ("a", "b", "c")


def test_several_labels_become_ones_and_zeros():
    examples = read_examples(frame_of([["b", "a", "b"], [], ["c"]]), ExampleSettings())
    assert examples.labels == LabelMap("multi", ("a", "b", "c"))
    assert examples.targets.dtype == np.float32
    assert examples.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_a_separator_gives_several_labels_and_an_empty_cell_none(tmp_path: Path, caplog: Any):
    path = tmp_path / "rows.csv"
    path.write_text("text,labels\na,joy| surprise\nb,\nc,joy|joy\n", "utf-8")
    with caplog.at_level(logging.INFO):
        examples = read_examples(path, ExampleSettings(label_separator="|"))
    assert examples.labels == LabelMap("multi", ("joy", "surprise"))
    assert examples.targets.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert "1 rows have no label" in caplog.text


def test_numbers_are_read_from_text_too():
    examples = read_examples(frame_of(["0.5", "2", "-1e3"]), ExampleSettings(kind="number"))
    assert examples.labels == LabelMap("number") and examples.labels.num_outputs == 1
    assert examples.targets.dtype == np.float32 and examples.targets.tolist() == [0.5, 2, -1000]


def test_the_training_labels_decide_how_other_rows_are_read():
    labels = read_examples(frame_of(["a", "b", "c"]), ExampleSettings()).labels
    dev = read_examples(frame_of(["c", "c"]), ExampleSettings(), labels)
    assert dev.targets.tolist() == [2, 2] and dev.labels is labels
    number = LabelMap("number")
    assert read_examples(frame_of([1, 1]), ExampleSettings(), number).targets.tolist() == [1, 1]


def test_the_labels_column_is_found_under_either_name_and_can_be_named():
    frame = frame_of([1, 0]).rename(columns={"label": "labels"})
    assert read_examples(frame, ExampleSettings()).targets.tolist() == [1, 0]
    both = frame.assign(label=[0, 0], stars=[3, 4])
    with pytest.raises(DataError, match="has columns 'label' and 'labels'. Name one with label_co"):
        read_examples(both, ExampleSettings())
    named = read_examples(both, ExampleSettings(label_column="stars"))
    assert named.labels == LabelMap("single", ("3", "4"))


def test_labels_are_saved_and_loaded(tmp_path: Path):
    for labels in (LabelMap("multi", ("好", 'a "b"')), LabelMap("number")):
        labels.save(tmp_path)
        assert LabelMap.load(tmp_path) == labels
    with pytest.raises(CheckpointError, match="holds no labels.json. Give the folder of a class"):
        LabelMap.load(tmp_path / "elsewhere")
    for text in (
        "{",
        "[]",
        '{"kind": "single", "names": ["a", "a"]}',
        '{"kind": "x", "names": []}',
    ):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(CheckpointError, match="does not hold labels"):
            LabelMap.load(tmp_path)


# refusals -------------------------------------------------------------------------------------


def test_unknown_labels_are_counted_and_the_nearest_known_named():
    labels = LabelMap("single", ("bad", "good", "mixed"))
    with pytest.raises(DataError) as caught:
        read_examples(frame_of(["good", "goood", "bad", "goood", "?"]), ExampleSettings(), labels)
    words = str(caught.value)
    assert "holds 2 labels that are not among the 3 of the training rows" in words
    assert "in 3 rows, rows 2, 4, 5" in words
    assert "'goood' (2 times) Did you mean 'good'?; '?' (1 times)" in words
    assert "Known labels: bad, good, mixed" in words


def test_an_unknown_label_among_several_is_found_too():
    with pytest.raises(DataError, match=r"in row 2: 'c' \(1 times\)"):
        read_examples(frame_of([["a"], ["a", "c"]]), ExampleSettings(), LabelMap("multi", ("a",)))


@pytest.mark.parametrize("gap", [None, "", "  ", float("nan")])
@pytest.mark.parametrize("kind", ["single", "number", "auto"])
def test_gaps_in_the_labels_are_named(gap: Any, kind: Any):
    with pytest.raises(DataError, match="column 'label' has no label in 2 rows, rows 2, 4. Label"):
        read_examples(frame_of([1, gap, 2.5, gap]), ExampleSettings(kind=kind))


@pytest.mark.parametrize(
    "labels", [["a", "a", " a"], [["x", "y"], ["y", "x"]], [[], []], [1, 1, 1]]
)
def test_rows_that_all_have_the_same_label_are_refused(labels: list[Any]):
    with pytest.raises(DataError, match=f"all {len(labels)} rows have the same label in column"):
        read_examples(frame_of(labels), ExampleSettings())


def test_equal_numbers_are_refused():
    with pytest.raises(DataError, match="all 2 rows have the same label"):
        read_examples(frame_of([2, 2]), ExampleSettings(kind="number"))


@pytest.mark.parametrize(
    ("labels", "settings", "words"),
    [
        ([["a"], "b"], {}, r"holds 'b', no list \(row 2\)"),
        (["a", "b"], {"kind": "multi"}, "holds 'a', no list .* name what separates labels"),
        ([["a"], ["b"]], {"kind": "single"}, r"holds \['a'\], no single label"),
        ([["a"], [None]], {}, r"holds \[None\], no list of labels"),
        ([["a"], ["b"]], {"label_separator": "|"}, "holds .*, no text .* '|' is for labels in a"),
        ([1, "x"], {"kind": "number"}, r"holds 'x', not a number \(row 2\)"),
        ([1, float("inf")], {"kind": "number"}, "holds inf, not a number"),
        ([1, True], {"kind": "number"}, "holds True, not a number"),
    ],
)
def test_labels_of_another_kind_are_refused(labels: list[Any], settings: Any, words: str):
    with pytest.raises(DataError, match=words):
        read_examples(frame_of(labels), ExampleSettings(**settings))


def test_a_kind_other_than_that_of_training_is_refused():
    with pytest.raises(ConfigError, match="kind is multi, and the labels of training are of kind"):
        read_examples(frame_of([0]), ExampleSettings(kind="multi"), LabelMap("number"))


def test_a_misspelt_label_column_is_suggested():
    with pytest.raises(DataError, match="no column 'lable'.* Did you mean 'label'.* label_column"):
        read_examples(frame_of([0, 1]), ExampleSettings(label_column="lable"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text_columns": ()}, "text_columns is empty"),
        ({"text_columns": ("a", "a")}, "names a column twice"),
        ({"pair": True}, r"pair is true and text_columns names 1 columns \(text\); a pair has two"),
        ({"text_columns": ("a", "b", "c"), "pair": True}, "names 3 columns"),
        ({"joiner": "-"}, "joiner joins several columns, and text_columns names one column"),
        ({"text_columns": ("a", "b"), "pair": True, "joiner": "-"}, "names a pair"),
        ({"text_columns": ("a",), "label_column": "a"}, "'a' is named as text and as label"),
        ({"label_separator": ""}, "label_separator is empty"),
        ({"label_separator": ",", "kind": "single"}, "separates several labels, and kind is singl"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: Any, words: str):
    with pytest.raises(ConfigError, match=words):
        ExampleSettings(**settings)


def test_every_setting_acts(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text('text,other,label,labels2\n"a",b,1,x|y\n"c",d,0,x\n', "utf-8")
    two = ("text", "other")
    changes = {
        "text_columns": ({}, {"text_columns": ("other",)}),
        "pair": ({"text_columns": two}, {"text_columns": two, "pair": True}),
        "joiner": ({"text_columns": two}, {"text_columns": two, "joiner": ""}),
        "label_column": ({}, {"label_column": "other"}),
        "kind": ({}, {"kind": "number"}),
        "label_separator": (
            {"label_column": "labels2"},
            {"label_column": "labels2", "label_separator": "|"},
        ),
        "quotes": ({}, {"quotes": False}),
    }
    assert set(changes) == {field.name for field in dataclasses.fields(ExampleSettings)}
    for before, after in changes.values():
        a, b = (read_examples(path, ExampleSettings(**settings)) for settings in (before, after))
        assert (a.texts, a.pairs, a.labels) != (b.texts, b.pairs, b.labels)
