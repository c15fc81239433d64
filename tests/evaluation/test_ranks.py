import numpy as np
import pytest
import torch

from idbert.errors import DataError, ShapeError
from idbert.evaluation.ranks import target_ranks, users_per_chunk

NOTHING_SEEN = np.zeros(0, dtype=np.int32)


def scored(scores_UV):
    scores_UV = torch.as_tensor(scores_UV, dtype=torch.float32)
    return lambda positions: scores_UV[torch.from_numpy(positions)]


def rank_all(scores_UV, targets, seen=NOTHING_SEEN, offsets=None, **settings):
    targets = np.asarray(targets)
    offsets = np.zeros(len(targets) + 1, dtype=np.int64) if offsets is None else np.array(offsets)
    return target_ranks(
        scored(scores_UV),
        targets,
        np.asarray(seen, dtype=np.int32),
        offsets,
        vocab_size=np.shape(scores_UV)[1],
        **settings,
    )


def slow_rank(scores, target, seen, first_item=4):
    others = [
        row for row in range(first_item, len(scores)) if row != target and row not in set(seen)
    ]
    greater = sum(scores[row] > scores[target] for row in others)
    ties = sum(scores[row] == scores[target] for row in others)
    return 1 + greater + ties / 2


def random_case(seed=0, users=40, vocab_size=30, distinct=8):
    """Scores with many ties, and histories that sometimes hold the target."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, distinct, (users, vocab_size)).astype(np.float32)
    targets = rng.integers(4, vocab_size, users)
    lengths = rng.integers(0, 9, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    seen = rng.integers(4, vocab_size, offsets[-1]).astype(np.int32)
    return scores, targets, seen, offsets


@pytest.mark.parametrize("filter_seen", [True, False])
def test_ranks_agree_with_a_count_by_hand(filter_seen):
    scores, targets, seen, offsets = random_case()
    ranking = rank_all(scores, targets, seen, offsets, filter_seen=filter_seen)
    expected = [
        slow_rank(
            scores[user],
            targets[user],
            seen[offsets[user] : offsets[user + 1]] if filter_seen else [],
        )
        for user in range(len(targets))
    ]
    np.testing.assert_array_equal(ranking.ranks_U, expected)


def test_histories_may_overlap_and_have_gaps_between_them():
    scores, targets, seen, offsets = random_case()
    starts, stops = offsets[:-1].copy(), offsets[1:].copy()
    starts[1], stops[1] = starts[0], stops[0]  # of one user twice
    stops[2] = starts[2]  # nothing of the third
    lengths = stops - starts
    packed = np.concatenate([seen[a:b] for a, b in zip(starts, stops, strict=True)])
    expected = rank_all(scores, targets, packed, np.append(0, lengths.cumsum()))
    found = rank_all(scores, targets, seen, starts, seen_stops=stops)
    np.testing.assert_array_equal(found.ranks_U, expected.ranks_U)
    assert found.seen_targets == expected.seen_targets


def test_constant_scores_give_the_middle_rank_and_not_the_first():
    ranking = rank_all(np.zeros((1, 4 + 11)), [9])
    assert ranking.ranks_U.tolist() == [6.0]


def test_special_rows_are_never_ranked():
    scores = np.zeros((1, 8))
    scores[0, :4] = 100.0
    scores[0, 4:] = [4, 3, 2, 1]
    ranking = rank_all(scores, [5])
    assert ranking.ranks_U.tolist() == [2.0]
    assert ranking.top_UK.tolist() == [[4, 5, 6, 7, -1, -1, -1, -1]]


def test_a_target_seen_before_stays_in_the_ranking_and_is_counted():
    scores = [[0, 0, 0, 0, 5, 4, 3], [0, 0, 0, 0, 5, 4, 3]]
    ranking = rank_all(scores, [5, 5], seen=[4, 5, 5, 4], offsets=[0, 3, 4], top_k=2)
    assert ranking.seen_targets == 1
    assert ranking.ranks_U.tolist() == [1.0, 1.0]
    assert ranking.top_UK.tolist() == [[5, 6], [5, 6]]


def test_without_the_filter_seen_items_are_ranked_and_recommended():
    ranking = rank_all(
        [[0, 0, 0, 0, 5, 4, 3]], [5], seen=[4], offsets=[0, 1], filter_seen=False, top_k=2
    )
    assert ranking.ranks_U.tolist() == [2.0]
    assert ranking.top_UK.tolist() == [[4, 5]]
    assert ranking.seen_targets == 0


def test_the_best_items_come_best_first():
    scores = np.random.default_rng(1).permuted(np.tile(np.arange(50.0), (6, 1)), axis=1)
    ranking = rank_all(scores, [4] * 6, top_k=20)
    expected = 4 + np.argsort(-scores[:, 4:], axis=1)[:, :20]
    np.testing.assert_array_equal(ranking.top_UK, expected)


def test_chunks_obey_the_memory_budget_and_change_nothing():
    vocab_size, users = 10_000, 30
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(users, vocab_size)).astype(np.float32)
    targets = rng.integers(4, vocab_size, users)
    seen = rng.integers(4, vocab_size, users * 5).astype(np.int32)
    offsets = np.arange(users + 1) * 5
    sizes = []

    def score(positions):
        sizes.append(len(positions))
        return torch.from_numpy(scores[positions])

    def run(memory_mib):
        return target_ranks(
            score, targets, seen, offsets, vocab_size=vocab_size, memory_mib=memory_mib
        )

    whole, small = run(512), run(1)
    assert sizes == [30, 8, 8, 8, 6]
    assert max(sizes[1:]) * vocab_size * 3 * 4 <= 2**20
    np.testing.assert_array_equal(whole.ranks_U, small.ranks_U)
    np.testing.assert_array_equal(whole.top_UK, small.top_UK)


def test_a_million_items_leave_room_for_forty_users_in_half_a_gibibyte():
    assert users_per_chunk(1_000_004, 512) == 44
    assert users_per_chunk(10**9, 1) == 1


def test_the_scores_that_were_given_are_not_changed():
    scores = torch.randn(3, 9)
    kept = scores.clone()
    target_ranks(
        lambda positions: scores,
        np.array([4, 5, 6]),
        np.array([7, 8]),
        np.array([0, 1, 2, 2]),
        vocab_size=9,
    )
    assert torch.equal(scores, kept)


def test_scores_of_half_precision_and_shared_rows_are_ranked():
    row = torch.arange(9, dtype=torch.bfloat16)
    ranking = target_ranks(
        lambda positions: row.expand(len(positions), -1),
        np.array([8, 4]),
        NOTHING_SEEN,
        np.zeros(3, dtype=np.int64),
        vocab_size=9,
    )
    assert ranking.ranks_U.tolist() == [1.0, 5.0]


def test_a_score_that_is_nan_is_refused():
    scores = np.zeros((3, 9))
    scores[1, 6] = np.nan
    with pytest.raises(DataError, match="1 users have NaN among their scores.*position 1"):
        rank_all(scores, [4, 4, 4])


def test_a_target_scored_minus_infinity_is_refused():
    scores = np.zeros((3, 9))
    scores[2, 6] = -np.inf
    with pytest.raises(DataError, match="1 targets are scored -inf, the first at position 2"):
        rank_all(scores, [6, 6, 6])


@pytest.mark.parametrize("target", [2, 9])
def test_a_target_that_is_no_item_is_refused(target):
    with pytest.raises(DataError, match=rf"1 targets are not item rows \(4 to 8\): {target} \("):
        rank_all(np.zeros((2, 9)), [4, target])


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"returned shape \(2, 9\) for 2 positions and 12 vocab"):
        target_ranks(
            scored(np.zeros((2, 9))),
            np.array([4, 5]),
            NOTHING_SEEN,
            np.zeros(3, dtype=np.int64),
            vocab_size=12,
        )
