from itertools import combinations

import numpy as np
import pytest
from scipy import sparse

from idbert.evaluation import lists
from idbert.evaluation.baselines import Popularity, item_cosines
from idbert.evaluation.lists import coverage, diversity, novelty, serendipity
from idbert.evaluation.ranks import target_ranks
from tests.evaluation.test_baselines import cosines_by_hand, flat, random_histories


def test_coverage_is_the_share_of_items_in_any_list():
    top = np.array([[4, 5, 6], [4, 5, -1]])
    assert coverage(top, num_items=12) == 0.25


def test_novelty_is_the_mean_information_of_the_list():
    counts = np.array([0, 0, 0, 0, 15, 7, 0, 6])  # with one added: 16 + 8 + 1 + 7 = 32
    top = np.array([[4, 5], [6, -1], [-1, -1]])
    np.testing.assert_allclose(novelty(top, counts), [(1 + 2) / 2, 5.0, 0.0])


def test_popular_items_are_less_novel_than_rare_ones():
    counts = np.array([0, 0, 0, 0, 100, 1])
    popular, rare = novelty(np.array([[4], [5]]), counts)
    assert popular < rare


def diversity_by_hand(top, cosines):
    """Pair by pair, as the definition reads."""
    found = []
    for given in top:
        pairs = list(combinations([item for item in given if item >= 0], 2))
        unlike = [1 - cosines[one, other] for one, other in pairs]
        found.append(sum(unlike) / len(pairs) if pairs else 0.0)
    return found


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("chunk", [3, 50_000])
def test_diversity_is_the_mean_unlikeness_of_all_pairs(dense, chunk, monkeypatch):
    monkeypatch.setattr(lists, "CHUNK_LISTS", chunk)
    histories = random_histories(users=40)
    rng = np.random.default_rng(5)
    top = np.array([rng.permutation(np.arange(4, 16))[:6] for _ in range(20)])
    top[3, 4:], top[4, 1:], top[5] = -1, -1, -1
    cosines = item_cosines(*flat(histories), 16)
    found = diversity(top, cosines.toarray() if dense else cosines)
    by_hand = diversity_by_hand(top, cosines_by_hand(histories, 16))
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    assert found[4] == found[5] == 0


def test_items_that_one_of_two_keeps_as_its_neighbour_are_alike():
    cosines = sparse.csr_array(([0.5], ([5], [4])), shape=(6, 6))
    assert diversity(np.array([[4, 5], [5, 4]]), cosines).tolist() == [0.5, 0.5]


def test_in_a_world_of_two_tastes_a_list_of_both_is_more_diverse():
    tastes = flat([[4, 5, 6], [7, 8, 9]] * 5)
    one, both = diversity(np.array([[4, 5, 6], [4, 5, 7]]), item_cosines(*tastes, 10))
    assert one == pytest.approx(0, abs=1e-6) and both == pytest.approx(2 / 3)


def test_nobody_has_no_diversity():
    assert diversity(np.zeros((0, 3), np.int64), np.zeros((6, 6), np.float32)).shape == (0,)


def test_serendipity_counts_hits_that_the_most_popular_items_do_not_hold():
    items, offsets = flat(random_histories(seed=2, users=30, vocab_size=40))
    rng = np.random.default_rng(3)
    targets, ranks = rng.integers(4, 40, 30), rng.integers(1, 20, 30).astype(float)
    popular = Popularity(items, 40)
    ranking = target_ranks(popular, targets, items, offsets, vocab_size=40)
    counts = popular.scores_V.numpy()
    found = serendipity(ranks, ranking.ranks_U)
    for user in range(30):
        seen = set(items[offsets[user] : offsets[user + 1]].tolist()) - {targets[user]}
        others = [item for item in range(4, 40) if item not in seen and item != targets[user]]
        above = sum(counts[item] > counts[targets[user]] for item in others)
        level = sum(counts[item] == counts[targets[user]] for item in others)
        assert found[user] == (ranks[user] <= 10 and 1 + above + level / 2 > 10)
    assert 0 < found.sum() < (ranks <= 10).sum()
    assert not serendipity(ranking.ranks_U, ranking.ranks_U).any()


def test_the_length_of_the_lists_acts_on_serendipity():
    ranks, popular = np.array([3.0, 12.0]), np.array([11.0, 30.0])
    assert serendipity(ranks, popular).tolist() == [1, 0]
    assert serendipity(ranks, popular, k=20).tolist() == [0, 1]
