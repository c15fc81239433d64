"""Pairs of texts: which kind of label it is, what is read, counted, left out and refused."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from idbert.errors import ConfigError, DataError, ShapeError
from nlp_tasks.match import PairExamples, PairSettings, read_pairs

SAMPLES = Path(__file__).parents[3] / "data" / "samples"


def frame_of(labels: list[Any], **columns: list[Any]) -> pd.DataFrame:
    size = len(labels)
    texts = {name: [f"{name} {row}" for row in range(size)] for name in ("text_a", "text_b")}
    data = texts | columns | {"label": labels}
    return pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in data.items()})


def kind_of(labels: list[Any], **settings: Any) -> str:
    return read_pairs(frame_of(labels), PairSettings(**settings)).kind


# reading --------------------------------------------------------------------------------------


def test_the_samples_are_what_their_description_says():
    pairs = read_pairs(SAMPLES / "pairs.jsonl", PairSettings(same_texts="refuse"))
    assert pairs.kind == "binary" and np.bincount(pairs.targets).tolist() == [32, 48]
    assert sum(text.isascii() or "café" in text for text in pairs.firsts + pairs.seconds) == 80
    sentences = read_pairs(SAMPLES / "sentences.txt", PairSettings())
    assert (len(sentences), sentences.kind) == (64, "none")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_pairs(tmp_path: Path, ending: str):
    frame = frame_of([1, 0, 1])
    file = tmp_path / f"pairs.{ending}"
    if ending == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    elif ending == "parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")
    pairs = read_pairs(file, PairSettings())
    assert pairs.firsts == ["text_a 0", "text_a 1", "text_a 2"]
    assert pairs.seconds == ["text_b 0", "text_b 1", "text_b 2"]
    assert (pairs.kind, pairs.targets.tolist(), pairs.rows.tolist()) == (
        "binary",
        [1, 0, 1],
        [0, 1, 2],
    )
    assert pairs.source == str(file)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 1, 1, 0], "binary"),
        (["0", "1", "1", "1"], "binary"),
        ([1.0, 0.0, 1.0], "binary"),
        ([True, False], "binary"),
        ([0.0, 2.0, 5.0, 3.0], "score"),
        (["0.5", "3.25"], "score"),
        (["entailment", "neutral"], "class"),
        (["0", "neutral"], "class"),
    ],
)
def test_the_kind_is_seen_from_the_labels(labels: list[Any], kind: str):
    assert kind_of(labels) == kind


def test_a_few_whole_numbers_may_be_scores_or_classes_and_are_asked_about():
    with pytest.raises(DataError, match="only the numbers 0, 1, 2. Are they scores or classes"):
        kind_of([0, 1, 2, 1])
    assert kind_of([0, 1, 2, 1], kind="score") == "score"
    classes = read_pairs(frame_of([2, 0, 1, 10]), PairSettings(kind="class"))
    assert (classes.names, classes.targets.tolist()) == (("0", "1", "2", "10"), [2, 0, 1, 3])


def test_scores_stand_as_in_the_file_and_cosines_are_their_shares():
    pairs = read_pairs(frame_of([5.0, 2.5, 0.0, 1.0]), PairSettings())
    assert pairs.targets.dtype == np.float32 and pairs.targets.tolist() == [5, 2.5, 0, 1]
    assert (pairs.max_score, pairs.cosine_targets().tolist()[:2]) == (5, [1, 0.5])
    wider = read_pairs(frame_of([5.0, 2.5]), PairSettings(kind="score", max_score=10))
    assert wider.cosine_targets().tolist() == [0.5, 0.25]


def test_other_files_are_read_as_the_first_was():
    settings = PairSettings()
    train = read_pairs(frame_of([0.0, 2.5, 5.0, 1.0]), settings)
    dev = read_pairs(frame_of([0, 1]), train.resolved(settings))
    assert (dev.kind, dev.max_score, dev.cosine_targets().tolist()[1]) == (
        "score",
        5,
        np.float32(0.2),
    )
    classes = read_pairs(frame_of(["b", "a", "c"]), settings)
    one = read_pairs(frame_of(["c"]), classes.resolved(settings), names=classes.names)
    assert (one.names, one.targets.tolist()) == (("a", "b", "c"), [2])


def test_pairs_without_labels_all_belong_together():
    frame = frame_of([0, 1]).drop(columns="label")
    pairs = read_pairs(frame, PairSettings(label_column=None))
    assert (pairs.kind, pairs.targets) == ("none", None)
    assert len(pairs.positives()) == 2


def test_texts_alone_are_pairs_with_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "texts.txt"
    file.write_text("one\n\n  two \r\nthree\n", encoding="utf-8")
    pairs = read_pairs(file, PairSettings())
    assert pairs.firsts == pairs.seconds == ["one", "two", "three"]
    alone = read_pairs(frame_of([1, 2]), PairSettings(second_column=None))
    assert (alone.kind, alone.firsts) == ("none", alone.seconds)
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


def test_hard_negatives_are_lists_or_texts_without_the_rows_own(caplog: pytest.LogCaptureFixture):
    frame = frame_of([1, 1, 1], negatives=[["x", "x", "text_a 0"], "y", None])
    pairs = read_pairs(frame, PairSettings(negatives_column="negatives"))
    assert pairs.negatives == [["x"], ["y"], []]
    assert "1 rows name one of their own two texts as a hard negative (row 1)" in caplog.text
    assert pairs.take([2, 0]).negatives == [[], ["x"]]


def test_chosen_pairs_keep_their_rows():
    pairs = read_pairs(frame_of([0, 1, 1]), PairSettings())
    chosen = pairs.take(np.array([2, 0, 2])).take([0, 1])
    assert (chosen.firsts, chosen.seconds) == (["text_a 2", "text_a 0"], ["text_b 2", "text_b 0"])
    assert (chosen.targets.tolist(), chosen.rows.tolist()) == ([1, 0], [2, 0])


def test_positives_are_those_that_the_label_says():
    def rows(labels: list[Any], least: Any) -> list[int]:
        positives = read_pairs(frame_of(labels), PairSettings()).positives(least)
        assert (positives.kind, positives.targets) == ("none", None)
        return positives.rows.tolist()

    assert rows([1, 0, 1], None) == [0, 2]
    assert rows([1.5, 4.0, 4.5], 4) == [1, 2]
    assert rows(["yes it is", "no", "yes it is"], "no") == [1]


# doubtful rows --------------------------------------------------------------------------------


DOUBTFUL = frame_of([1, 1, 0, 1], text_a=["a", "b", "c", "d"], text_b=["a", "c", "b", "e"])


def test_the_same_text_twice_is_counted_and_kept(caplog: pytest.LogCaptureFixture):
    assert len(read_pairs(DOUBTFUL, PairSettings())) == 4
    assert "1 of 4 rows hold the same text twice (row 1). They are kept" in caplog.text
    assert "2 of 4 rows give one pair different labels (2 rows, rows 2, 3)" in caplog.text


def test_doubtful_rows_are_left_out_or_refused_as_is_wished():
    kept = read_pairs(DOUBTFUL, PairSettings(same_texts="leave_out"))
    assert kept.rows.tolist() == [1, 2, 3]
    kept = read_pairs(DOUBTFUL, PairSettings(contradictions="leave_out"))
    assert kept.rows.tolist() == [0, 3]
    with pytest.raises(DataError, match="hold the same text twice .row 1.. Mend them, or set same"):
        read_pairs(DOUBTFUL, PairSettings(same_texts="refuse"))
    with pytest.raises(DataError, match="give one pair different labels .2 rows, rows 2, 3.. Mend"):
        read_pairs(DOUBTFUL, PairSettings(contradictions="refuse"))
    both = PairSettings(same_texts="leave_out", contradictions="leave_out")
    with pytest.raises(DataError, match="all 3 rows were left out"):
        read_pairs(DOUBTFUL.iloc[:3], both)


def test_classes_may_differ_when_the_texts_change_places(caplog: pytest.LogCaptureFixture):
    frame = frame_of(["yes", "no"], text_a=["a", "b"], text_b=["b", "a"])
    assert len(read_pairs(frame, PairSettings(contradictions="refuse"))) == 2


# refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan")])
def test_an_empty_text_is_named_by_row_and_column(empty: Any):
    frame = frame_of([0, 1, 0], text_b=["a", empty, "c"])
    with pytest.raises(DataError, match="column 'text_b' has no text in row 2. Fill these rows"):
        read_pairs(frame, PairSettings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"first_column": "text_x"}, "no column 'text_x'.*Did you mean 'text_[ab]'.*first_column"),
        ({"second_column": "b"}, "no column 'b'.*Name the right one with second_column"),
        ({"label_column": "labels"}, "no column 'labels'.*'label'.*set kind to none if"),
        ({"negatives_column": "n"}, "no column 'n'.*negatives_column"),
    ],
)
def test_a_missing_column_is_named_with_its_setting(settings: dict[str, Any], words: str):
    with pytest.raises(DataError, match=words):
        read_pairs(frame_of([0, 1]), PairSettings(**settings))


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        ([1, None, 0], "auto", "has no label in row 2"),
        ([1, 0.5, 0], "binary", "holds 0.5, not 0 or 1, in row 2"),
        ([0.5, None, 2], "score", "has no label in row 2"),
        (["0.5", "high", "2"], "score", "holds 'high', not a number .row 2"),
        (["a", "a"], "auto", "have the same label"),
        ([["a"], ["b"]], "auto", "no single label"),
    ],
)
def test_labels_of_another_kind_are_refused(labels: list[Any], kind: Any, words: str):
    with pytest.raises(DataError, match=words):
        read_pairs(frame_of(labels), PairSettings(kind=kind))


def test_texts_that_are_none_are_refused():
    with pytest.raises(DataError, match=r"holds \['x'\], which is no text \(row 1\)"):
        read_pairs(frame_of([1, 0], text_a=[["x"], "y"]), PairSettings())
    with pytest.raises(DataError, match="holds half a character"):
        read_pairs(frame_of([1, 0], text_a=["x", "\ud800"]), PairSettings())
    negatives = PairSettings(negatives_column="n")
    with pytest.raises(DataError, match=r"column 'n' holds \['x', 3\] \(row 2\). Give texts"):
        read_pairs(frame_of([1, 1], n=["x", ["x", 3]]), negatives)


def test_a_class_unknown_to_training_is_refused():
    with pytest.raises(DataError, match="'entailmnt' .1 times. Did you mean 'entailment'"):
        read_pairs(frame_of(["entailmnt"]), PairSettings(), names=("entailment", "neutral"))
    with pytest.raises(ConfigError, match="kind is binary, and names of classes are given"):
        read_pairs(frame_of([1]), PairSettings(kind="binary"), names=("0", "1"))


def test_a_score_beyond_the_largest_is_refused():
    with pytest.raises(DataError, match="a score is 5, above max_score 4 .row 2.. Raise max_score"):
        read_pairs(frame_of([1.5, 5.0]), PairSettings(max_score=4))
    with pytest.raises(ConfigError, match="max_score acts only on scores, and DataFrame holds"):
        read_pairs(frame_of([1, 0]), PairSettings(max_score=4))


def test_a_missing_or_empty_file_of_texts_is_refused(tmp_path: Path):
    (tmp_path / "text.txt").write_text(" \n\n")
    with pytest.raises(DataError, match="holds no text. Write one a line"):
        read_pairs(tmp_path / "text.txt", PairSettings())
    with pytest.raises(DataError, match="there is no file .*tex.txt'. Did you mean 'text.txt'"):
        read_pairs(tmp_path / "tex.txt", PairSettings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"second_column": "text_a"}, "the columns of a pair differ"),
        ({"kind": "none", "label_column": "same"}, "kind none reads no labels"),
        ({"kind": "score", "label_column": None}, "kind is score and label_column is null"),
        ({"kind": "binary", "second_column": None}, "kind is binary and second_column is null"),
        ({"max_score": 0}, "max_score is 0; give a number above 0"),
        ({"max_score": 5, "kind": "class"}, "max_score acts only where kind is score"),
        ({"max_score": 5, "label_column": None}, "max_score acts only where kind is score"),
        ({"second_column": None, "same_texts": "refuse"}, "same_texts cannot act"),
        ({"kind": "none", "contradictions": "refuse"}, "contradictions acts only where pairs have"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        PairSettings(**settings)


def test_every_setting_acts(tmp_path: Path):
    file = tmp_path / "pairs.tsv"
    file.write_text(
        'text_a\ttext_b\tlabel\tother\n"a"\ta\t1\t0\nb\tc\t0.25\t0\nc\tb\t0.75\t1\n', "utf-8"
    )
    changes: dict[str, Any] = {
        "first_column": "other",
        "second_column": "other",
        "label_column": "other",
        "kind": "class",
        "max_score": 2,
        "negatives_column": "other",
        "same_texts": "leave_out",
        "contradictions": "leave_out",
        "quotes": False,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(PairSettings)}

    def read(**settings: Any) -> tuple[Any, ...]:
        pairs = read_pairs(file, PairSettings(**settings))
        targets = pairs.targets.tolist()
        return (pairs.firsts, pairs.seconds, targets, pairs.kind, pairs.max_score, pairs.negatives)

    for name, value in changes.items():
        assert read(**{name: value}) != read(), name


def test_examples_that_do_not_fit_together_are_refused():
    rows = np.arange(2)
    with pytest.raises(ShapeError, match="2 firsts, but 1 seconds"):
        PairExamples(firsts=["a", "b"], seconds=["c"], targets=None, kind="none", rows=rows)
    with pytest.raises(ShapeError, match="pairs of kind binary need targets of 0 and 1"):
        PairExamples(firsts=["a", "b"], seconds=["c", "d"], targets=None, kind="binary", rows=rows)


def test_what_a_label_does_not_say_is_refused():
    classes = read_pairs(frame_of(["entails", "not"]), PairSettings())
    with pytest.raises(ConfigError, match="Give one of entails, not, not 'entail'. Did you mean"):
        classes.positives("entail")
    with pytest.raises(ConfigError, match="pairs of kind class do not say what a cosine"):
        classes.cosine_targets()
    with pytest.raises(ConfigError, match="Give the least score that does"):
        read_pairs(frame_of([1.5, 2]), PairSettings()).positives()
    with pytest.raises(ConfigError, match="pairs of kind binary need no '1'"):
        read_pairs(frame_of([1, 0]), PairSettings()).positives(1)
