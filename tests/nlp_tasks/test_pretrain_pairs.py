"""Pairs to learn from, and the settings of what a new vocabulary begins with."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.word_vocabulary import train_word_tokenizer
from idbert.nn.frequency_start import NO_ROW
from idbert.nn.word_config import WordEncoderSettings
from idbert.nn.word_models import MaskedWordModel
from nlp_tasks.pretrain.answers import LabelReader
from nlp_tasks.pretrain.corpus import CorpusSettings, read_corpus
from nlp_tasks.pretrain.start import ItemStart, VectorSource, WordStart, word_rows
from nlp_tasks.pretrain.validation import label_metrics
from nlp_tasks.pretrain.vocabulary import VocabularySettings
from tests.nlp_tasks.text_world import write

COLUMNS = {"text_columns": ("a", "b"), "pair": True}


def table(labels, count: int | None = None) -> pd.DataFrame:
    rows = [
        {"a": f"1 {n}", "b": f"2 {n}"} | ({} if label is None else {"label": label})
        for n, label in enumerate(labels[: count or len(labels)])
    ]
    return pd.DataFrame(rows)


def read(path: Path, **changes):
    return read_corpus(CorpusSettings(train=str(path), **(COLUMNS | {"dev_share": 0} | changes)))


def test_labels_of_several_files_are_read_and_pairs_without_one_are_kept(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(table([1, 0, 1]), tmp_path / "train-1.jsonl")
    write(table([None] * 4), tmp_path / "train-2.jsonl")
    table(["0", ""]).to_csv(tmp_path / "train-3.csv", index=False)
    corpus = read(tmp_path / "train-*", label_column="label")
    assert corpus.train.labels == ["1", "0", "1", None, None, None, None, "0", None]
    assert corpus.label_names == ["0", "1"] and corpus.train.firsts[3] == "1 0"
    assert "4 pairs, 0 of them labelled" in caplog.text
    assert len(corpus.training_texts) == 18
    assert read(tmp_path / "train-*").train.labels is None


def test_numbers_of_a_parquet_file_are_the_labels_that_a_jsonl_file_has(tmp_path):
    frame = table([1, 0, 1])
    frame["label"] = [1.0, np.nan, 0.0]
    frame.to_parquet(tmp_path / "train.parquet")
    assert read(tmp_path / "train.parquet", label_column="label").train.labels == ["1", None, "0"]


def test_pairs_with_an_empty_text_are_left_out_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    frame = table([1, 0, 1])
    frame.loc[1, "b"] = " "
    write(frame, tmp_path / "train.jsonl")
    corpus = read(tmp_path / "train.jsonl", label_column="label")
    assert corpus.train.labels == ["1", "1"] and "1 with an empty text left out" in caplog.text


def test_equal_pairs_are_held_out_together_whichever_text_is_first(tmp_path):
    frame = table([0, 1] * 20)
    swapped = frame.rename(columns={"a": "b", "b": "a"})
    write(pd.concat([frame, swapped]), tmp_path / "train.jsonl")
    corpus = read(tmp_path / "train.jsonl", dev_share=0.25)
    assert len(corpus.dev) == 20 and len(corpus.train) == 60
    assert not set(corpus.dev.keys) & set(corpus.train.keys)


def test_a_dev_file_needs_no_labels_but_none_that_training_has_not(tmp_path):
    write(table([1, 0]), tmp_path / "train.jsonl")
    write(table([None, None]), tmp_path / "dev.jsonl")
    settings = {"label_column": "label", "dev_share": None}
    corpus = read(tmp_path / "train.jsonl", dev=str(tmp_path / "dev.jsonl"), **settings)
    assert corpus.dev.labels == [None, None]
    write(table([2, 0]), tmp_path / "dev.jsonl")
    with pytest.raises(DataError, match="has labels that no training pair has: 2. Give training"):
        read(tmp_path / "train.jsonl", dev=str(tmp_path / "dev.jsonl"), **settings)


def test_columns_that_hold_no_labels_are_refused(tmp_path):
    write(table([1, 0]), tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="no pair has a label in a column 'lable'.*Did you mean"):
        read(tmp_path / "train.jsonl", label_column="lable")
    write(table([[1], [0]]), tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"column 'label' holds \[1\], which is no label \(2 rows"):
        read(tmp_path / "train.jsonl", label_column="label")
    write(table([n / 7 for n in range(150)]), tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="holds 150 different values.*at most 100 of them"):
        read(tmp_path / "train.jsonl", label_column="label")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_column": "label"}, "label_column 'label' names labels of pairs, and pair is fal"),
        ({"pair": True}, "pair is true and text_columns names 1 columns"),
        (COLUMNS | {"label_column": "a"}, "column 'a' is named as text and as label"),
        (COLUMNS | {"label_probability": 0.5}, "label_probability=0.5 cannot act without labels"),
        (
            COLUMNS | {"label_column": "label", "label_probability": 2},
            "label_probability is 2; it must be above 0 and at most 1",
        ),
    ],
)
def test_settings_of_pairs_that_cannot_act_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        CorpusSettings(**settings)


def test_a_vocabulary_of_words_is_a_kind_of_vocabulary():
    made = VocabularySettings(kind="words", min_frequency=2).train(["12 3 3", "12 4"])
    assert made("12 3 4")["input_ids"][1:-1] == [5, 6, 1]
    assert len(VocabularySettings(kind="words", size=6, min_frequency=1).train(["1 2 2"])) == 6
    upper = VocabularySettings(kind="words", lowercase=False, min_frequency=1).train(["A a"])
    assert {"A", "a"} <= set(upper.get_vocab())


@pytest.mark.parametrize(
    ("start", "settings", "words"),
    [
        (WordStart, {"reference": "x.txt"}, "reference cannot act without the model whose tokens"),
        (WordStart, {"layers": 2}, "layers cannot act without a model to start from"),
        (WordStart, {"words": "random"}, "words cannot act without a model to start from"),
        (WordStart, {"model": "m"}, "nothing says which of its tokens are frequent. Give a file"),
        (WordStart, {"model": "m", "reference": "x", "layers": -1}, "layers is -1; it must be at"),
        (WordStart, {"model": "m", "words": "random", "layers": 0}, "nothing is taken from start"),
        (WordStart, {"model": "m", "words": "random", "reference": "x"}, "words is 'random'"),
        (WordStart, {"model": "m", "words": "random", "reference_columns": ("q",)}, "a reference"),
        (ItemStart, {"layers": 1}, "layers cannot act without a model to start from"),
        (ItemStart, {"model": "m"}, "nothing says which of its tokens are frequent"),
        (ItemStart, {"model": "m", "reference": "x", "layers": -1}, "layers is -1"),
    ],
)
def test_starts_that_cannot_act_are_refused(start, settings, words):
    with pytest.raises(ConfigError, match=words):
        start(**settings)


def test_words_take_rows_by_rank_and_special_tokens_by_their_role(tmp_path):
    ours = train_word_tokenizer(["7 7 7 8 8 9"])
    theirs = train_word_tokenizer(["b a a b c"])  # a, b, c
    (tmp_path / "texts.txt").write_text("c c c\na a\n")
    start = WordStart(model="m", reference=str(tmp_path / "texts.txt"))
    rows_V = word_rows(start, ["8 8 8 7 9 9"], ours, theirs)
    vocabulary = ours.get_vocab()
    assert rows_V[:5].tolist() == [0, 1, 2, 3, 4]
    found = [theirs.convert_ids_to_tokens(int(rows_V[vocabulary[word]])) for word in "89"]
    assert found == ["c", "a"] and rows_V[vocabulary["7"]] == NO_ROW
    drawn = word_rows(WordStart(model="m", words="random"), ["7"], ours, theirs)
    assert drawn.tolist() == [0, 1, 2, 3, 4, NO_ROW, NO_ROW, NO_ROW]


def test_a_reference_is_read_by_its_columns(tmp_path):
    write(pd.DataFrame({"q": ["one"], "r": ["two"]}), tmp_path / "texts.jsonl")
    settings = {"model": "m", "reference": str(tmp_path / "texts.jsonl")}
    assert VectorSource(**settings, reference_columns=("r", "q")).read_reference() == ["two", "one"]
    with pytest.raises(DataError, match="has no column 'text'"):
        VectorSource(**settings).read_reference()


def test_figures_of_labels_are_accuracy_and_of_two_the_auc():
    scores_MC = np.array([[0.0, 1], [1, 0], [0, 2], [0, 3]])
    assert label_metrics(scores_MC, np.array([0, 0, 1, 1])) == {
        "label_accuracy": 0.75,
        "label_auc": 1.0,
    }
    assert list(label_metrics(scores_MC, np.array([1, 1, 1, 1]))) == ["label_accuracy"]
    assert list(label_metrics(np.eye(3), np.arange(3))) == ["label_accuracy"]
    assert label_metrics(np.zeros((0, 2)), np.zeros(0, np.int64)) == {}


def test_a_model_that_knows_no_labels_cannot_answer():
    tokenizer = train_word_tokenizer(["1 2 3"])
    model = MaskedWordModel.build(WordEncoderSettings(hidden_size=8), vocab_size=len(tokenizer))
    with pytest.raises(CheckpointError, match="has no token of a label. Give a run of nlp_pretra"):
        LabelReader(model, tokenizer, max_length=8)
