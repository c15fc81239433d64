import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.evaluation import baselines
from idbert.evaluation.baselines import (
    DAY_US,
    ItemKnn,
    Popularity,
    RecentPopularity,
    fit_baselines,
    item_cosines,
)
from idbert.evaluation.ranks import target_ranks

EVERYBODY = np.arange(3, dtype=np.int64)


def flat(histories):
    lengths = [len(history) for history in histories]
    items = np.array([row for history in histories for row in history], dtype=np.int32)
    return items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def random_histories(seed=0, users=25, vocab_size=16):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, vocab_size, rng.integers(1, 12)).tolist() for _ in range(users)]


def cosines_by_hand(histories, vocab_size):
    matrix = np.zeros((len(histories), vocab_size))
    for user, history in enumerate(histories):
        matrix[user, history] = 1
    norms = np.maximum(np.linalg.norm(matrix, axis=0), 1)
    cosines = matrix.T @ matrix / norms / norms[:, None]
    np.fill_diagonal(cosines, 0)
    return cosines


def test_popularity_counts_training_events():
    score = Popularity(np.array([4, 5, 5, 7, 5]), vocab_size=8)
    assert score(EVERYBODY).tolist() == [[0, 0, 0, 0, 1, 3, 0, 1]] * 3


def test_recent_popularity_counts_only_the_window_that_ends_with_training():
    items = np.array([4, 4, 4, 5, 6])
    times = np.array([0, 1, 2, 40, 45], dtype=np.int64) * DAY_US
    wide = RecentPopularity(items, times, 7)
    assert wide(EVERYBODY)[0].tolist() == [0, 0, 0, 0, 0, 1, 1]
    narrow = RecentPopularity(items, times, 7, window_days=5)
    assert narrow(EVERYBODY)[0].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_cosines_agree_with_a_dense_computation():
    histories = random_histories()
    cosines = item_cosines(*flat(histories), 16)
    np.testing.assert_allclose(cosines.toarray(), cosines_by_hand(histories, 16), atol=1e-6)


def test_neighbour_scores_are_weighted_sums_of_cosines():
    histories = [[4, 5, 6], [5, 6, 5], [7, 4]]
    cosines = cosines_by_hand(histories, 8)
    table = item_cosines(*flat(histories), 8)
    plain = ItemKnn(table, *flat(histories))(EVERYBODY)
    decayed = ItemKnn(table, *flat(histories), decay=10.0)(EVERYBODY)
    for user, history in enumerate(histories):
        ages = np.arange(len(history))[::-1]
        np.testing.assert_allclose(plain[user], cosines[history].sum(0), atol=1e-6)
        np.testing.assert_allclose(
            decayed[user], (np.exp(-ages / 10)[:, None] * cosines[history]).sum(0), atol=1e-6
        )


def test_users_are_scored_by_position():
    items, offsets = flat(random_histories())
    score = ItemKnn(item_cosines(items, offsets, 16), items, offsets)
    some = np.array([7, 3], dtype=np.int64)
    assert torch.equal(score(some), score(np.arange(25, dtype=np.int64))[[7, 3]])


def test_each_item_keeps_its_most_similar_neighbours():
    histories = random_histories(users=60)
    by_hand = cosines_by_hand(histories, 16)
    kept = item_cosines(*flat(histories), 16, max_neighbours=3).toarray()
    assert ((kept > 0).sum(1) <= 3).all()
    np.testing.assert_allclose(
        np.sort(kept, axis=1)[:, -3:], np.sort(by_hand, axis=1)[:, -3:], atol=1e-6
    )


def test_enough_neighbours_are_all_of_them():
    items, offsets = flat(random_histories())
    assert (
        item_cosines(items, offsets, 16) != item_cosines(items, offsets, 16, max_neighbours=16)
    ).nnz == 0


def test_large_catalogues_are_scored_like_small_ones(monkeypatch):
    items, offsets = flat(random_histories())
    everybody = np.arange(25, dtype=np.int64)
    small = fit_baselines(items, offsets, items, offsets, 16)
    monkeypatch.setattr(baselines, "DENSE_ROWS", 0)
    monkeypatch.setattr(baselines, "CHUNK_PAIRS", 50)
    large = fit_baselines(items, offsets, items, offsets, 16)
    for name in small:
        torch.testing.assert_close(small[name](everybody), large[name](everybody))


def test_neighbour_models_share_one_table():
    items, offsets = flat(random_histories())
    fitted = fit_baselines(items, offsets, items, offsets, 16)
    assert isinstance(fitted["item-kNN"].table_VV, np.ndarray)
    assert fitted["item-kNN"].table_VV is fitted["item-kNN, decayed"].table_VV


def test_the_arrays_that_were_given_are_not_changed():
    items, offsets = flat([[9, 4, 9], [5, 4]])
    items = items.astype(np.int64)
    items.setflags(write=False)
    kept = items.copy()
    ItemKnn(item_cosines(items, offsets, 10), items, offsets)
    np.testing.assert_array_equal(items, kept)


def test_in_a_world_of_two_tastes_neighbours_find_the_withheld_item():
    tastes = [[4, 5, 6, 7], [8, 9, 10, 11]]
    train = flat(tastes * 10)
    histories = flat([[4, 5, 6], [8, 9, 10]])
    score = ItemKnn(item_cosines(*train, 12), *histories)
    ranking = target_ranks(score, np.array([7, 11]), *histories, vocab_size=12)
    assert ranking.ranks_U.tolist() == [1.0, 1.0]


def test_recent_popularity_stands_only_where_times_are_real():
    items, offsets = flat(random_histories())
    without = fit_baselines(items, offsets, items, offsets, 16)
    linear = ["item-kNN", "item-kNN, decayed", "EASE", "EASE, decayed"]
    assert list(without) == ["popularity", *linear]
    times = np.arange(len(items), dtype=np.int64) * DAY_US
    timed = fit_baselines(items, offsets, items, offsets, 16, train_times=times)
    assert list(timed) == ["popularity", "recent popularity", *linear]
    assert all(score(EVERYBODY).shape == (3, 16) for score in timed.values())


def test_settings_out_of_range_are_refused():
    items, offsets = flat([[4, 5]])
    with pytest.raises(ConfigError, match="max_neighbours is 0; give 1 or more"):
        item_cosines(items, offsets, 6, max_neighbours=0)
    with pytest.raises(ConfigError, match="decay is 0.0; give a positive number of events"):
        ItemKnn(item_cosines(items, offsets, 6), items, offsets, decay=0.0)
    with pytest.raises(ConfigError, match="window_days is 0; give 1 day or more"):
        RecentPopularity(items, np.zeros(2, dtype=np.int64), 6, window_days=0)
