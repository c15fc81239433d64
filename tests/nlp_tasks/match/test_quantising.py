"""Vectors of fewer bits take less room and find most of what exact search finds."""

import numpy as np
import pytest

from idbert.errors import ConfigError
from nlp_tasks.match.quantising import FACTORIES, factory_of, measure_types, recall_of
from tests.nlp_tasks.match.vector_world import clustered


def test_fewer_bits_take_less_room_and_find_a_little_less():
    vectors = clustered(3000, width=64)
    measured = measure_types(vectors, vectors[:100]).set_index("vectors")
    assert list(measured.index) == list(FACTORIES)
    assert measured["bytes_a_vector"].is_monotonic_decreasing
    assert measured.loc["float32", "recall"] == 1
    assert measured.loc["float16", "recall"] > 0.99
    assert measured.loc["int8", "recall"] > 0.95
    assert measured.loc["int8", "bytes_a_vector"] < 70
    assert 0.2 < measured.loc["binary", "recall"] < measured.loc["int8", "recall"]
    assert measured.loc["binary", "bytes_a_vector"] < 20


def test_signs_whose_best_are_ranked_again_find_almost_all():
    vectors = clustered(2000, width=64)
    measured = measure_types(
        vectors, vectors[:100], factories={"refined": "RaBitQ,Refine(SQ8)", "binary": "RaBitQ"}
    )
    refined, binary = measured["recall"]
    assert refined > 0.9 > binary


def test_recall_counts_what_was_found_among_what_there_is():
    exact = np.array([[1, 2], [3, -1]])
    assert recall_of(np.array([[2, 1], [3, 9]]), exact) == 1
    assert recall_of(np.array([[2, 7], [-1, -1]]), exact) == pytest.approx(1 / 3)


def test_an_unknown_type_is_refused():
    with pytest.raises(ConfigError, match="no vectors of type 'int7'.*Choose from float32"):
        factory_of("int7")
