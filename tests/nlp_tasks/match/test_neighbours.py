"""Neighbours and near-duplicates are those that all pairs would give, however they are cut."""

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.match import duplicates, neighbours
from nlp_tasks.match.duplicates import near_duplicates
from nlp_tasks.match.neighbours import all_pairs_neighbours, unit_vectors
from tests.nlp_tasks.match.vector_world import clustered


def by_all_pairs(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize(("count", "k"), [(2, 1), (70, 1), (700, 3), (700, 10), (90, 89)])
def test_neighbours_are_those_of_all_pairs(count: int, k: int, cosine: bool):
    vectors = clustered(count)
    compared = unit_vectors(vectors) if cosine else vectors
    right_scores, right_rows = by_all_pairs(compared, k)
    scores, rows = all_pairs_neighbours(vectors, k, cosine=cosine)
    assert rows.dtype == np.int64 and scores.dtype == np.float32
    np.testing.assert_allclose(scores, right_scores, rtol=1e-4, atol=1e-5)
    assert (rows == right_rows).mean() > 0.999
    assert (rows != np.arange(count)[:, None]).all()


@pytest.mark.parametrize(("rows", "columns"), [(16, 40), (7, 300), (64, 64), (1000, 1000)])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int):
    vectors = clustered(450, seed=1)
    right = all_pairs_neighbours(vectors, 4)
    clusters = [group.tolist() for group in near_duplicates(vectors, 0.9)]
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(neighbours, "COLUMNS_AT_ONCE", columns)
    monkeypatch.setattr(neighbours, "_COLUMNS_OF_HALF", columns)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 10)
    scores, found = all_pairs_neighbours(vectors, 4)
    np.testing.assert_allclose(scores, right[0], atol=1e-5)
    assert (found == right[1]).mean() > 0.999
    assert [group.tolist() for group in near_duplicates(vectors, 0.9)] == clusters


def test_equal_vectors_are_neighbours_and_a_vector_is_none_of_its_own():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    scores, rows = all_pairs_neighbours(vectors, 1)
    np.testing.assert_array_equal(rows[:, 0], [1, 0, 3, 2, 5, 4])
    np.testing.assert_allclose(scores, 1)


def test_a_zero_vector_has_the_cosine_zero_with_all():
    vectors = np.concatenate([np.zeros((1, 4)), np.eye(4)]).astype(np.float32)
    assert all_pairs_neighbours(vectors, 2)[0][0].tolist() == [0, 0]


def test_too_many_neighbours_and_vectors_that_are_not_finite_are_refused():
    vectors = clustered(5)
    with pytest.raises(ConfigError, match="k is 0"):
        all_pairs_neighbours(vectors, 0)
    with pytest.raises(DataError, match="5 vectors have no 5 neighbours each"):
        all_pairs_neighbours(vectors, 5)
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 5 vectors hold NaN or infinity, the first in row 3"):
        all_pairs_neighbours(vectors, 1)


def test_clusters_are_what_pairs_above_the_threshold_join():
    angles = np.deg2rad([0, 10, 20, 90, 95, 200])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = near_duplicates(vectors, float(np.cos(np.deg2rad(11))))
    assert [group.tolist() for group in found] == [[0, 1, 2], [3, 4]]
    assert near_duplicates(vectors, 1.0) == []
    assert [group.tolist() for group in near_duplicates(vectors, -1)] == [list(range(6))]


def test_many_equal_vectors_are_one_cluster():
    vectors = np.ones((2500, 2), np.float32)
    found = near_duplicates(vectors, 0.999)
    assert len(found) == 1 and len(found[0]) == 2500


def test_equal_vectors_are_found_at_a_cosine_of_one_whatever_their_rounding():
    vectors = np.random.default_rng(0).normal(size=(200, 37)).astype(np.float32).repeat(2, axis=0)
    assert len(near_duplicates(vectors, 1.0)) == 200


def test_inner_products_may_be_the_measure_and_impossible_cosines_are_refused():
    vectors = np.array([[3, 0], [2, 0], [0, 1]], np.float32)
    found = near_duplicates(vectors, 5, cosine=False)
    assert [group.tolist() for group in found] == [[0, 1]]
    with pytest.raises(ConfigError, match="threshold is 5; a cosine is from -1 to 1"):
        near_duplicates(vectors, 5)
