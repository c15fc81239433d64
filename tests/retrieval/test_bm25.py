"""BM25 scores as the published libraries do, in Chinese and English, and is one product."""

import builtins
from typing import Any

import bm25s
import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from idbert.errors import ConfigError, DataError, MissingExtraError
from idbert.inputs.words import words_of
from idbert.retrieval import bm25
from idbert.retrieval.bm25 import BM25Index, BM25Settings

CHINESE = [
    "光荣公司开发了战国无双三代。",
    "北京是中国的首都，也是中国的文化中心。",
    "上海是中国最大的城市。",
    "熊猫吃竹子，生活在四川。",
    "四川的火锅很辣。",
]
ENGLISH = [
    "The Panda eats bamboo in Sichuan.",
    "Paris is the capital of France.",
    "Shanghai is a large city; a port, too.",
    "A bear eats honey and fish.",
    "Trains run from Paris to Lyon.",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of words that are as unevenly frequent as those of a language."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 40, count)
    return [" ".join(f"w{word}" for word in draw.zipf(1.4, size) % 500) for size in lengths]


@pytest.mark.parametrize(
    ("texts", "query", "row"),
    [(CHINESE, "中国的首都在哪里？", 1), (CHINESE, "熊猫吃什么", 3), (ENGLISH, "PANDA bamboo", 0)],
)
@pytest.mark.parametrize("engine", ["rank-bm25", "bm25s"])
def test_the_text_that_shares_the_rare_words_comes_first(
    texts: list[str], query: str, row: int, engine: Any
) -> None:
    scores_QK, rows_QK = BM25Index.build(texts, engine=engine).search([query], 3)
    assert rows_QK[0, 0] == row
    assert (np.diff(scores_QK[0][np.isfinite(scores_QK[0])]) <= 0).all()


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4)])
def test_scores_are_those_of_rank_bm25(k1: float, b: float) -> None:
    texts, queries = random_texts(301), random_texts(40, seed=1)
    okapi = BM25Okapi([words_of(text) for text in texts], k1=k1, b=b)
    expected_QN = np.stack([okapi.get_scores(words_of(query)) for query in queries])
    assert min(okapi.idf.values()) > 0  # so that nothing needs mending
    scores_QK, rows_QK = BM25Index.build(texts, k1=k1, b=b).search(queries, 25)
    found = rows_QK >= 0
    taken = np.take_along_axis(expected_QN, rows_QK.clip(0), axis=1)
    np.testing.assert_allclose(scores_QK[found], taken[found], rtol=1e-5)
    best = -np.sort(-expected_QN, axis=1)[:, :25]
    np.testing.assert_allclose(np.where(found, scores_QK, 0), best, rtol=1e-5)


def test_scores_are_those_of_bm25s() -> None:
    texts, queries = random_texts(300), random_texts(40, seed=1)
    model = bm25s.BM25(k1=1.2, b=0.5)
    model.index([words_of(text) for text in texts], show_progress=False)
    expected = model.retrieve([words_of(q) for q in queries], k=10, show_progress=False)
    scores_QK, _ = BM25Index.build(texts, engine="bm25s", k1=1.2, b=0.5).search(queries, 10)
    np.testing.assert_allclose(
        np.where(np.isfinite(scores_QK), scores_QK, 0), expected.scores, 1e-5
    )


@pytest.mark.parametrize("engine", ["rank-bm25", "bm25s"])
def test_texts_without_a_common_word_are_not_returned(engine: Any) -> None:
    index = BM25Index.build([*ENGLISH, "...", ""], engine=engine)
    scores_QK, rows_QK = index.search(["honey", "nothing such", "", "？！"], 4)
    assert rows_QK.tolist() == [[3, -1, -1, -1], *[[-1] * 4] * 3]
    assert np.isfinite(scores_QK[0, 0]) and np.isneginf(scores_QK[0, 1:]).all()
    assert np.isneginf(scores_QK[1:]).all()


@pytest.mark.parametrize("engine", ["rank-bm25", "bm25s"])
def test_in_a_collection_of_two_texts_the_right_one_is_found(engine: Any) -> None:
    index = BM25Index.build(["a red apple", "a green pear"], engine=engine)
    assert index.search(["apple", "pear", "a pear"], 2)[1].tolist() == [[0, -1], [1, -1], [1, 0]]
    assert BM25Index.build(["alone"], engine=engine).search(["alone"], 5)[1].tolist() == [[0]]


def test_many_queries_at_once_are_the_queries_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, queries = random_texts(50), random_texts(30, seed=3)
    index = BM25Index.build(texts)
    whole = index.search(queries, 7)
    monkeypatch.setattr(bm25, "_SCORES_AT_ONCE", 1)
    for part, expected in zip(index.search(queries, 7), whole, strict=True):
        np.testing.assert_array_equal(part, expected)
    assert index.search([], 7)[1].shape == (0, 7)


def test_of_equal_texts_the_first_comes_first() -> None:
    index = BM25Index.build(["same words", "other", "same words", "more", "same words", "yet"])
    assert index.search(["same"], 6)[1].tolist() == [[0, 2, 4, -1, -1, -1]]
    for k in (1, 2, 3):  # also where not all of them are wanted
        assert index.search(["same", "yet same"], k)[1].tolist() == [[0, 2, 4][:k], [5, 0, 2][:k]]


def test_every_setting_acts() -> None:
    texts = ["a b", "a a a a b c c d", "c d", "e f", "g h i j k l m"]
    plain = BM25Index.from_settings(texts, BM25Settings()).search(["a"], 2)[0]
    for changed in (BM25Settings(k1=0.1), BM25Settings(b=0.0), BM25Settings(engine="bm25s")):
        assert not np.allclose(plain, BM25Index.from_settings(texts, changed).search(["a"], 2)[0])


def test_large_collections_are_left_to_bm25s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25, "LARGE_COLLECTION", 4)
    assert BM25Index.build(ENGLISH).engine == "bm25s"
    assert BM25Index.build(ENGLISH[:4]).engine == "rank-bm25"
    real_import = builtins.__import__

    def without_bm25s(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "bm25s":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_bm25s)
    assert BM25Index.build(ENGLISH).engine == "rank-bm25"
    with pytest.raises(MissingExtraError, match=r"bm25s is not installed.*idbert\[bm25s\]"):
        BM25Index.build(ENGLISH, engine="bm25s")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k1": -1}, "k1 is -1; it must be 0 or more"),
        ({"k1": float("nan")}, "k1 is nan"),
        ({"b": 1.5}, "b is 1.5; it must be from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BM25Settings(**settings)


def test_nothing_to_search_is_refused() -> None:
    with pytest.raises(DataError, match="none of 0 texts holds a word"):
        BM25Index.build([])
    with pytest.raises(DataError, match="none of 2 texts holds a word"):
        BM25Index.build(["", "…"])
    with pytest.raises(ConfigError, match="k is 0; it must be at least 1"):
        BM25Index.build(["word"]).search(["word"], 0)
