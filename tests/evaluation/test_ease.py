import logging
import math

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.evaluation import ease
from idbert.evaluation.baselines import BaselineSettings, fit_baselines
from idbert.evaluation.ease import Ease, ease_table
from idbert.evaluation.ranks import target_ranks
from tests.evaluation.test_baselines import flat, random_histories


def table_by_hand(histories, vocab_size, l2):
    """The closed form of the paper, written with plain loops."""
    gram = np.zeros((vocab_size, vocab_size))
    for history in histories:
        for one in set(history):
            for other in set(history):
                gram[one, other] += 1
    for item in range(vocab_size):
        gram[item, item] += l2
    inverse = np.linalg.inv(gram)
    table = np.zeros((vocab_size, vocab_size))
    for row in range(vocab_size):
        for column in range(vocab_size):
            if row != column:
                table[row, column] = -inverse[row, column] / inverse[column, column]
    return table


@pytest.mark.parametrize("l2", [0.01, 3.0, 500.0])
@pytest.mark.parametrize("chunk_rows", [1, 5, 512])
def test_the_table_is_that_of_a_solution_with_loops(l2, chunk_rows, monkeypatch):
    monkeypatch.setattr(ease, "CHUNK_ROWS", chunk_rows)
    histories = random_histories(users=40)
    table = ease_table(*flat(histories), 16, l2=l2)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, table_by_hand(histories, 16, l2), rtol=1e-5, atol=1e-7)


def test_each_column_solves_its_ridge_regression_without_the_item_itself():
    histories = random_histories(seed=3, users=60)
    seen = np.zeros((60, 16))
    for user, history in enumerate(histories):
        seen[user, history] = 1
    table = ease_table(*flat(histories), 16, l2=2.0)
    for item in range(4, 16):
        others = [row for row in range(4, 16) if row != item]
        known = seen[:, others]
        solved = np.linalg.solve(known.T @ known + 2.0 * np.eye(11), known.T @ seen[:, item])
        np.testing.assert_allclose(table[others, item], solved, atol=1e-5)
        assert table[item, item] == 0


def test_scores_sum_the_rows_of_a_history_where_repeats_count_once_unless_they_decay():
    table = ease_table(*flat(random_histories()), 16, l2=5.0)
    history = [7, 4, 7, 9]
    plain = Ease(table, *flat([history]))(np.array([0]))
    np.testing.assert_allclose(plain[0], table[[4, 7, 9]].sum(0), atol=1e-6)
    decayed = Ease(table, *flat([history]), decay=2.0)(np.array([0]))
    weighted = sum(math.exp(-age / 2) * table[item] for age, item in enumerate([9, 7, 4, 7]))
    np.testing.assert_allclose(decayed[0], weighted, atol=1e-6)


def test_an_item_without_training_events_gets_no_score():
    table = ease_table(*flat([[4, 5], [4, 5], [5, 6]]), 8, l2=1.0)
    assert not table[7].any() and not table[:, 7].any() and not table[:4].any()


def test_in_a_world_where_a_popular_item_goes_with_everything_the_right_neighbour_wins():
    # Everybody has item 4. Cosines add it up with each history; EASE knows that it says nothing.
    tastes = [[4, 5, 6, 7], [4, 8, 9, 10]]
    train = flat(tastes * 10 + [[4]] * 30)
    histories = flat([[4, 5, 6], [4, 8, 9]])
    score = Ease(ease_table(*train, 11, l2=1.0), *histories)
    ranking = target_ranks(score, np.array([7, 10]), *histories, vocab_size=11)
    assert ranking.ranks_U.tolist() == [1.0, 1.0]
    given = score(np.array([0, 1])).numpy()
    assert given[0, 7] > 10 * abs(given[0, 10])


def test_the_settings_of_ease_act():
    events = flat(random_histories())
    usual = fit_baselines(*events, *events, 16)
    stronger = fit_baselines(*events, *events, 16, settings=BaselineSettings(ease_l2=5.0))
    positions = np.arange(25)
    for name in ("EASE", "EASE, decayed"):
        assert not np.allclose(usual[name](positions), stronger[name](positions))


def test_a_large_catalogue_goes_without_ease_and_a_line_says_so(caplog):
    events = flat(random_histories())
    with caplog.at_level(logging.INFO):
        fitted = fit_baselines(*events, *events, 16, settings=BaselineSettings(ease_max_items=11))
    assert list(fitted) == ["popularity", "item-kNN", "item-kNN, decayed"]
    assert "EASE is left out: a matrix of 12 x 12 items" in caplog.text
    assert "more than ease_max_items=11 items" in caplog.text
    assert "EASE" in fit_baselines(*events, *events, 16, settings=BaselineSettings(300.0, 12))


def test_settings_out_of_range_are_refused():
    for l2 in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="ease_l2 is .*; give a positive number"):
            BaselineSettings(ease_l2=l2)
        with pytest.raises(ConfigError, match="l2 is .*; give a positive number"):
            ease_table(*flat([[4, 5]]), 6, l2=l2)
    with pytest.raises(ConfigError, match="ease_max_items is -1; give 0 or more"):
        BaselineSettings(ease_max_items=-1)
    table = ease_table(*flat([[4, 5]]), 6, l2=1.0)
    with pytest.raises(ConfigError, match="decay is 0.0; give a positive number of events"):
        Ease(table, *flat([[4]]), decay=0.0)


def test_a_matrix_that_double_precision_cannot_invert_is_refused():
    with pytest.raises(ConfigError, match="cannot be inverted.*Give a larger ease_l2"):
        ease_table(*flat([[4, 5, 6]] * 9), 7, l2=1e-300)
