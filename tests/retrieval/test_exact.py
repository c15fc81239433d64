"""Exact search is a matrix product and a sort, filtered."""

import numpy as np
import pytest
import torch

from idbert.retrieval import exact
from idbert.retrieval.exact import ExactIndex


def drawn(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 6)).astype(np.float32)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_the_best_rows_are_those_of_a_sort_under_any_filter(share: float) -> None:
    vectors, queries = drawn(40, 0), drawn(7, 1)
    rng = np.random.default_rng(2)
    allowed = rng.random(40) < share
    offsets = np.append(0, rng.integers(0, 9, 7).cumsum())
    excluded = rng.integers(0, 40, offsets[-1])

    right = queries @ vectors.T
    right[:, ~allowed] = -np.inf
    for query in range(7):
        right[query, excluded[offsets[query] : offsets[query + 1]]] = -np.inf
    order = np.argsort(-right, axis=1)[:, :5]

    index = ExactIndex(torch.from_numpy(vectors))
    scores, rows = index.search(queries, 5, allowed_N=allowed, excluded=(excluded, offsets))
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(scores, np.take_along_axis(right, order, 1), rtol=1e-5)


def test_the_number_of_queries_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = ExactIndex(torch.from_numpy(drawn(40, 0))), drawn(7, 1)
    offsets = np.arange(8) * 3
    excluded = (np.arange(21) % 40, offsets)
    at_once = index.search(queries, 5, excluded=excluded)
    monkeypatch.setattr(exact, "_SCORES_AT_ONCE", 80)
    for whole, in_parts in zip(at_once, index.search(queries, 5, excluded=excluded), strict=True):
        np.testing.assert_allclose(whole, in_parts, rtol=1e-5)


def test_where_too_few_rows_are_left_the_rest_is_marked() -> None:
    index = ExactIndex(torch.from_numpy(drawn(4, 0)))
    scores, rows = index.search(drawn(1, 1), 9, excluded=(np.array([1]), np.array([0, 1])))
    assert set(rows[0]) == {0, 2, 3, -1}
    assert rows[0, -1] == -1 and np.isneginf(scores[0, -1])
    _, rows = index.search(drawn(1, 1), 9, allowed_N=np.zeros(4, bool))
    assert rows.tolist() == [[-1] * 4]


def test_scores_are_inner_products() -> None:
    vectors, queries = drawn(4, 0), drawn(2, 1)
    index = ExactIndex(torch.from_numpy(vectors))
    np.testing.assert_allclose(index.scores(queries), queries @ vectors.T, rtol=1e-5)
    np.testing.assert_array_equal(index.vectors(np.array([2, 0])), vectors[[2, 0]])
