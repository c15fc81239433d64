"""The parts of a matching: held out without leaks, closed, made of classes."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.parts import ClassPairSettings, MatchData, read_match_parts
from tests.nlp_tasks.text_world import texts, write


def pair_file(path: Path, rows: list[tuple[str, str, object]]) -> str:
    lines = [json.dumps({"text_a": a, "text_b": b, "label": label}) for a, b, label in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def chain(tmp_path: Path) -> str:
    rows = [(f"a{n}", f"b{n}", n % 2) for n in range(40)]
    return pair_file(tmp_path / "train.jsonl", [*rows, ("b0", "c0", 1), ("b1", "c1", 1)])


def test_no_text_stands_in_training_and_validation(chain: str):
    parts = read_match_parts(MatchData(train=chain, dev_share=0.25))
    assert parts.validation is not None and 0 < len(parts.validation) <= 11
    ours = {*parts.train.firsts, *parts.train.seconds}
    theirs = {*parts.validation.firsts, *parts.validation.seconds}
    assert not ours & theirs
    assert len(parts.train) + len(parts.validation) == 42


def test_a_dev_file_holds_nothing_out_and_is_read_as_the_training_pairs_were(chain, tmp_path):
    scores = pair_file(tmp_path / "scores.jsonl", [(f"x{n}", f"y{n}", n / 2) for n in range(11)])
    dev = pair_file(tmp_path / "dev.jsonl", [("p", "q", 1), ("r", "s", 0)])
    parts = read_match_parts(MatchData(train=scores, dev=dev, test=dev))
    assert len(parts.train) == 11 and parts.validation.kind == "score"
    assert parts.validation.max_score == 5.0 and list(parts.evaluated) == ["validation", "test"]


def test_pairs_without_labels_may_be_validated_by_labelled_ones(tmp_path):
    alone = tmp_path / "texts.txt"
    alone.write_text("one text\nanother\n")
    dev = pair_file(tmp_path / "dev.jsonl", [("p", "q", 1), ("r", "s", 0)])
    parts = read_match_parts(MatchData(train=str(alone), dev=dev))
    assert parts.train.kind == "none" and parts.validation.kind == "binary"
    assert read_match_parts(MatchData(train=str(alone))).validation is None
    with pytest.raises(ConfigError, match="texts alone validate nothing"):
        read_match_parts(MatchData(train=str(alone), dev_share=0.2))


def test_labels_of_other_files_are_read_where_the_training_pairs_have_none(tmp_path):
    """A pair that is labelled 0 must not count as a right answer."""
    train = tmp_path / "train.jsonl"
    lines = [json.dumps({"text_a": f"a{n}", "text_b": f"b{n}"}) for n in range(4)]
    train.write_text("\n".join(lines))
    dev = pair_file(tmp_path / "dev.jsonl", [("p", "q", 1), ("r", "s", 0)])
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"text_a": "p", "text_b": "q"}))
    for settings in ({"label_column": None}, {"kind": "none"}):
        parts = read_match_parts(MatchData(train=str(train), dev=dev, test=str(bare), **settings))
        assert parts.train.kind == "none" and parts.validation.kind == "binary"
        assert parts.evaluated["test"].kind == "none"
    alone = MatchData(train=str(train), dev=dev, second_column=None)
    assert read_match_parts(alone).validation.kind == "binary"


def test_negatives_are_asked_of_the_training_pairs_alone(tmp_path):
    train = tmp_path / "train.jsonl"
    lines = [{"text_a": f"a{n}", "text_b": f"b{n}", "wrong": [f"c{n}"]} for n in range(4)]
    train.write_text("\n".join(map(json.dumps, lines)))
    dev = pair_file(tmp_path / "dev.jsonl", [("p", "q", 1), ("r", "s", 0)])
    settings = {"negatives_column": "wrong", "kind": "none"}
    parts = read_match_parts(MatchData(train=str(train), dev=dev, **settings))
    assert parts.train.negatives[0] == ["c0"] and parts.validation.negatives is None


@pytest.mark.parametrize(("classes", "size"), [(40, 2), (100, 3), (20, 10), (3, 50)])
def test_of_classes_two_texts_or_none_are_held_out(tmp_path, classes: int, size: int):
    rows = [{"text": f"t{c}-{n}", "label": f"c{c}"} for n in range(size) for c in range(classes)]
    file = tmp_path / "classes.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = MatchData(train=str(file), classes=ClassPairSettings(text_column="text"))
    parts = read_match_parts(data)
    for part in (parts.train, parts.validation):
        assert 0.3 < part.targets.mean() < 0.6, "texts have lost their class"
        assert all(
            rows[row]["text"] == text for row, text in zip(part.rows, part.firsts, strict=True)
        )
    held_out = {*parts.validation.firsts, *parts.validation.seconds}
    assert 0.05 < len(held_out) / len(rows) <= 0.2
    others = [{"text": f"u{n}", "label": f"new {n // 2}"} for n in range(6)]
    dev = tmp_path / "dev.jsonl"
    dev.write_text("\n".join(map(json.dumps, others)))
    assert read_match_parts(replace(data, dev=str(dev))).validation.targets.sum() == 3


def test_what_the_training_pairs_imply_is_added_on_demand(chain: str):
    plain = read_match_parts(MatchData(train=chain, dev_share=0.0))
    closed = read_match_parts(MatchData(train=chain, dev_share=0.0, close=True))
    # b0 = c0 and a0 != b0 give a0 != c0; a1 = b1 and b1 = c1 give a1 = c1.
    assert len(closed.train) == len(plain.train) + 2


def test_an_implied_pair_that_stands_in_another_part_is_not_trained_on(chain, tmp_path):
    dev = pair_file(tmp_path / "dev.jsonl", [("c1", "a1", 1), ("p", "q", 0)])
    closed = read_match_parts(MatchData(train=chain, dev=dev, close=True))
    pairs = {*map(frozenset, zip(closed.train.firsts, closed.train.seconds, strict=True))}
    assert frozenset(("a0", "c0")) in pairs and frozenset(("a1", "c1")) not in pairs
    # What the training file itself says stays, and is only counted.
    stated = pair_file(tmp_path / "stated.jsonl", [("a3", "b3", 1), ("p", "q", 0)])
    kept = read_match_parts(MatchData(train=chain, dev=stated, close=True))
    assert len(kept.train) == 44


def test_labelled_negatives_become_hard_ones(tmp_path):
    train = pair_file(tmp_path / "t.jsonl", [("a", "b", 1), ("a", "c", 0), ("d", "e", 1)])
    parts = read_match_parts(MatchData(train=train, dev_share=0.0, labelled_negatives=True))
    assert parts.train.negatives is not None and parts.train.negatives[0] == ["c"]
    nli = pair_file(tmp_path / "n.jsonl", [("a", "b", "entailment"), ("a", "c", "contradiction")])
    data = MatchData(train=nli, dev_share=0.0, labelled_negatives="contradiction")
    assert read_match_parts(data).train.negatives[0] == ["c"]


def test_pairs_are_made_of_classes_and_no_text_is_in_two_parts(tmp_path):
    file = str(write(texts(60), tmp_path / "classes.jsonl"))
    classes = ClassPairSettings(text_column="text", negatives_per_text=2)
    parts = read_match_parts(MatchData(train=file, classes=classes, dev_share=0.3))
    sides = [{*part.firsts, *part.seconds} for part in (parts.train, parts.validation)]
    assert not sides[0] & sides[1] and parts.train.kind == "binary"
    label_of = dict(pd.read_json(file, lines=True)[["text", "label"]].itertuples(index=False))
    rows = zip(parts.train.firsts, parts.train.seconds, parts.train.targets, strict=True)
    assert all((label_of[a] == label_of[b]) == (target == 1) for a, b, target in rows)
    both = MatchData(train=file, dev=file, classes=classes)
    assert len(read_match_parts(both).validation) == len(read_match_parts(both).train)


def test_pairs_that_stand_in_two_parts_are_counted(chain: str, caplog):
    read_match_parts(MatchData(train=chain, dev=chain))
    assert "42 of 42 pairs of the validation part stand in the training part too" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dev": "x", "dev_share": 0.1}, "dev_share=0.1 cannot act beside the dev file x"),
        ({"dev_share": 1.0}, "dev_share is 1.0; choose from 0 to below 1"),
        ({"close": True, "classes": ClassPairSettings("text")}, "close=true cannot act"),
        ({"max_score": 5, "classes": ClassPairSettings("text")}, "max_score cannot act"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        MatchData(**settings)


def test_numbers_of_made_pairs_need_a_column_of_texts():
    with pytest.raises(ConfigError, match="cannot act on files of pairs"):
        ClassPairSettings(positives_per_text=3)
    with pytest.raises(ConfigError, match="negatives_per_text is -1"):
        ClassPairSettings(text_column="text", negatives_per_text=-1)


def test_a_missing_column_of_classes_is_named(tmp_path):
    file = str(write(texts(9), tmp_path / "classes.jsonl"))
    with pytest.raises(DataError, match="has no column 'words'.*classes.text_column"):
        read_match_parts(MatchData(train=file, classes=ClassPairSettings("words")))
