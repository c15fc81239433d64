import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from idbert.errors import DataError
from idbert.evaluation.metrics import (
    check_users,
    metrics_at,
    per_target_metrics,
    user_means,
)


def test_metrics_of_ranks_equal_those_of_ir_measures():
    rng = np.random.default_rng(0)
    users, items = 60, 40
    scores = rng.permuted(np.tile(np.arange(items), (users, 1)), axis=1)
    targets = rng.integers(0, items, users)
    ranks = 1.0 + (scores > scores[np.arange(users), targets][:, None]).sum(1)
    qrels = [Qrel(str(user), str(target), 1) for user, target in enumerate(targets)]
    run = [
        ScoredDoc(str(user), str(item), float(scores[user, item]))
        for user in range(users)
        for item in range(items)
    ]
    names = {f"{m}@{k}": o @ k for m, o in (("ndcg", nDCG), ("recall", R), ("mrr", RR))
             for k in (1, 5, 10, 20)}  # fmt: skip
    oracle = ir_measures.calc_aggregate(list(names.values()), qrels, run)
    ours = metrics_at(ranks)
    assert set(ours) == set(names)
    for name, measure in names.items():
        assert ours[name] == pytest.approx(oracle[measure], abs=1e-9), name


def test_the_means_are_those_of_the_users():
    ranks = np.array([1.0, 3.0, 11.0])
    per_user = per_target_metrics(ranks, ks=(10,))
    np.testing.assert_allclose(per_user["ndcg@10"], [1, 0.5, 0])
    np.testing.assert_allclose(per_user["recall@10"], [1, 1, 0])
    np.testing.assert_allclose(per_user["mrr@10"], [1, 1 / 3, 0])
    assert metrics_at(ranks, ks=(10,))["ndcg@10"] == pytest.approx(0.5)


def test_a_tied_rank_behind_the_cutoff_is_a_miss():
    assert per_target_metrics(np.array([10.5]), ks=(10,))["recall@10"].tolist() == [0.0]


def test_all_users_weigh_the_same_however_many_targets_they_have():
    ranks, users = np.array([1.0, 30.0, 30.0, 1.0]), np.array([0, 0, 0, 1])
    recall = per_target_metrics(ranks, ks=(10,))["recall@10"]
    np.testing.assert_allclose(user_means(recall, users), [1 / 3, 1])
    assert metrics_at(ranks, (10,), users)["recall@10"] == pytest.approx(2 / 3)
    assert metrics_at(ranks, (10,))["recall@10"] == 0.5


def test_one_target_a_user_gives_the_very_figures_that_targets_give():
    ranks = np.random.default_rng(1).integers(1, 40, 30).astype(float)
    assert metrics_at(ranks, users_Q=np.arange(30)) == metrics_at(ranks)


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ([0, 1], "3 targets and 2 users"),
        ([0, 2, 2], "numbered from 0, and each"),
        ([-1, 0, 1], "numbered from 0"),
    ],
)
def test_users_that_do_not_fit_the_targets_are_refused(users, words):
    with pytest.raises(DataError, match=words):
        check_users(np.array(users), 3)
