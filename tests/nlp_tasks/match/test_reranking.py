"""Reranking by a classifier of pairs, or by a cross-encoder of sentence-transformers."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from idbert.errors import CheckpointError, ConfigError, DataError
from nlp_tasks.match.reranking import (
    ClassifierReranker,
    CrossEncoderReranker,
    open_reranker,
    rerank,
)
from tests.nlp_tasks.text_world import bert_folder


class Labels:
    def __init__(self, kind: str, names: tuple[str, ...]) -> None:
        self.kind, self.names = kind, names


class Reader:
    is_pair = True


class CommonWords:
    """A classifier that knows how many words two texts have in common."""

    def __init__(self, kind: str = "single", names: tuple[str, ...] = ("0", "1")) -> None:
        self.labels, self.reader = Labels(kind, names), Reader()

    def decide(self, texts, pairs):
        shares = np.array(
            [len({*a.split()} & {*b.split()}) / 9 for a, b in zip(texts, pairs, strict=True)]
        )
        if self.labels.kind == "number":
            return shares.astype(np.float32), None
        rest = (1 - shares) / (len(self.labels.names) - 1)
        columns = [rest] * (len(self.labels.names) - 1) + [shares]
        return shares > 0.5, np.stack(columns, axis=1).astype(np.float32)


CANDIDATES = ["x y", "a b c", "a q", "a r"]


@pytest.mark.parametrize("kind", ["single", "number"])
def test_the_best_candidate_comes_first_and_equal_ones_keep_their_order(kind: str):
    names = ("0", "1") if kind == "single" else ()
    reranker = ClassifierReranker(CommonWords(kind, names))
    places, scores = rerank(reranker, "a b c", CANDIDATES)
    assert places.tolist() == [1, 2, 3, 0] and np.all(np.diff(scores) <= 0)
    assert rerank(reranker, "a b c", CANDIDATES, 2)[0].tolist() == [1, 2]
    assert len(rerank(reranker, "a", [])[0]) == 0


def test_the_label_that_counts_is_found_or_asked_for():
    classes = ("contradiction", "neutral", "entailment")
    ClassifierReranker(CommonWords(names=classes))
    with pytest.raises(ConfigError, match="Which label says that two texts belong together"):
        ClassifierReranker(CommonWords(names=("a", "b")))
    assert ClassifierReranker(CommonWords(names=("a", "b")), "b")._place == 1
    with pytest.raises(ConfigError, match="knows no label 'entailed'"):
        ClassifierReranker(CommonWords(names=classes), "entailed")
    with pytest.raises(ConfigError, match="this classifier tells a number"):
        ClassifierReranker(CommonWords("number", ()), "1")
    with pytest.raises(ConfigError, match="several labels of a pair"):
        ClassifierReranker(CommonWords("multi"))


def test_a_classifier_of_single_texts_is_refused():
    single = CommonWords()
    single.reader.is_pair = False
    with pytest.raises(ConfigError, match="reads single texts, and a reranker reads pairs"):
        ClassifierReranker(single)


def test_a_cross_encoder_of_sentence_transformers_reranks(tmp_path: Path):
    bert_folder(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    CrossEncoder(str(tmp_path / "bert"), num_labels=1).save_pretrained(str(tmp_path / "cross"))
    reranker = open_reranker(tmp_path / "cross", device="cpu")
    texts = ["good w1", "bad w2", "odd w3 w4"]
    expected = CrossEncoder(str(tmp_path / "cross")).predict([("good", text) for text in texts])
    places, scores = rerank(reranker, "good", texts)
    assert places.tolist() == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose(scores, np.sort(expected)[::-1], atol=1e-6)
    with pytest.raises(ConfigError, match="acts only on a run of nlp_cls"):
        open_reranker(tmp_path / "cross", label="1")


def test_what_is_no_cross_encoder_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot be opened as a cross-encoder"):
        open_reranker(tmp_path / "nowhere" / "at" / "all")

    class TwoOutputs:
        num_labels = 2

    with pytest.raises(ConfigError, match="has 2 outputs, and a reranker needs one score"):
        CrossEncoderReranker(TwoOutputs())


def test_bad_queries_are_refused():
    reranker = ClassifierReranker(CommonWords())
    with pytest.raises(ConfigError, match="k is 0"):
        rerank(reranker, "a", CANDIDATES, 0)
    with pytest.raises(DataError, match="not a text"):
        rerank(reranker, 7, CANDIDATES)
    with pytest.raises(DataError, match="1 of 2 texts are empty"):
        rerank(reranker, "a", ["b", ""])
