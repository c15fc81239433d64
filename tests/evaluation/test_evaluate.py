import json

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError, DataError
from idbert.evaluation.bootstrap import interval
from idbert.evaluation.evaluate import comparison_table, comparison_text, evaluate, label

USERS, VOCAB_SIZE = 50, 34
COUNTS = np.arange(VOCAB_SIZE)


def small_evaluation(seed=0, help_target=0.0, targets_seed=9, **settings):
    """Random scores, with the target's raised by `help_target`."""
    rng = np.random.default_rng(targets_seed)
    targets = rng.integers(4, VOCAB_SIZE, USERS)
    histories = (
        rng.integers(4, VOCAB_SIZE, USERS * 3).astype(np.int32),
        np.arange(USERS + 1) * 3,
    )
    scores = torch.rand(USERS, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
    scores[torch.arange(USERS), torch.from_numpy(targets)] += help_target
    settings = {"split": "leave-last-out, test", "resamples": 200, **settings}
    return evaluate(
        lambda positions: scores[torch.from_numpy(positions)],
        targets,
        histories,
        counts_V=COUNTS,
        **settings,
    )


def test_a_model_that_knows_the_target_is_perfect():
    evaluation = small_evaluation(help_target=2.0)
    assert evaluation.metrics["ndcg@1"] == evaluation.metrics["recall@20"] == 1.0
    assert evaluation.intervals["ndcg@10"] == (1.0, 1.0)
    assert (evaluation.ranks_Q == 1).all()


def test_every_metric_lies_within_its_interval():
    evaluation = small_evaluation()
    assert set(evaluation.metrics) == {*evaluation.intervals, "coverage@10"}
    for name, (low, high) in evaluation.intervals.items():
        assert low <= evaluation.metrics[name] <= high


def test_the_protocol_says_what_was_done():
    filtered, open_ = small_evaluation(), small_evaluation(filter_seen=False)
    words = str(filtered.protocol)
    assert words.startswith("leave-last-out, test; 50 users, full ranking of 30 items; seen items")
    assert f"filtered ({filtered.protocol.seen_targets} targets among them stay)" in words
    assert "ties get their mean rank" in words and "200 samples, seed 0" in words
    assert "seen items not filtered;" in str(open_.protocol)
    assert filtered.protocol.seen_targets > 0


def test_every_setting_acts():
    base = small_evaluation()
    assert small_evaluation(filter_seen=False).metrics != base.metrics
    assert "ndcg@3" in small_evaluation(ks=(3,)).metrics
    assert small_evaluation(resamples=20).intervals != base.intervals
    assert small_evaluation(seed=0, split="x").protocol.split == "x"
    assert small_evaluation(memory_mib=1).metrics == base.metrics


def test_a_better_model_is_better_by_the_difference_of_the_metrics():
    better, worse = small_evaluation(help_target=0.5), small_evaluation()
    compared = better.compare(worse)["ndcg@10"]
    assert compared.difference == pytest.approx(
        better.metrics["ndcg@10"] - worse.metrics["ndcg@10"]
    )
    assert 0 < compared.low < compared.difference < compared.high


def test_targets_of_one_user_are_means_and_users_are_what_is_resampled():
    users = np.repeat(np.arange(10), 5)
    one, several = small_evaluation(), small_evaluation(users_Q=users)
    for name, value_U in several.per_user.items():
        np.testing.assert_allclose(value_U, one.per_user[name].reshape(10, 5).mean(1))
        assert several.intervals[name] == pytest.approx(interval(value_U, resamples=200))
    assert several.metrics["coverage@10"] == one.metrics["coverage@10"]
    assert several.protocol.users == 10 and several.protocol.targets == 50
    assert "10 users with 50 targets, earlier ones in the history" in str(several.protocol)
    with pytest.raises(DataError, match="cannot be compared"):
        several.compare(one)


def test_one_target_a_user_gives_the_same_figures_and_words_as_without_users():
    one, given = small_evaluation(), small_evaluation(users_Q=np.arange(USERS))
    assert given.to_json() == one.to_json()
    assert str(given.protocol) == str(one.protocol)


def test_diversity_and_serendipity_stand_where_their_ingredients_are_given():
    popular = np.full(USERS, 11.0)
    cosines = np.full((VOCAB_SIZE, VOCAB_SIZE), 0.25, dtype=np.float32)
    usual = small_evaluation()
    given = small_evaluation(cosines_VV=cosines, popular_ranks_Q=popular)
    new = {"diversity@10", "serendipity@10"}
    assert (
        set(given.metrics) - set(usual.metrics)
        == new
        == set(given.intervals) - set(usual.intervals)
    )
    assert given.metrics["diversity@10"] == 0.75
    assert given.metrics["serendipity@10"] == given.metrics["recall@10"]
    assert small_evaluation(popular_ranks_Q=popular - 1).metrics["serendipity@10"] == 0


def test_the_table_holds_values_intervals_and_differences_to_the_first():
    evaluations = {"model": small_evaluation(help_target=0.5), "chance": small_evaluation()}
    table = comparison_table(evaluations)
    assert list(table.index) == ["model", "chance"]
    assert table.loc["model", ("ndcg@10", "difference")] == 0
    assert table.loc["chance", ("ndcg@10", "difference")] < 0
    assert (
        table.loc["chance", ("recall@10", "low")]
        == evaluations["chance"].intervals["recall@10"].low
    )


def test_the_text_is_a_protocol_line_and_a_markdown_table():
    evaluations = {"a|b": small_evaluation(help_target=0.5), "chance": small_evaluation()}
    protocol, blank, header, rule, *rows = comparison_text(evaluations).splitlines()
    assert protocol == str(evaluations["a|b"].protocol) and blank == ""
    assert "NDCG@10" in header and "Recall@10 minus a\\|b" in header
    assert set(rule) == {"|", "-", " "}
    assert len(rows) == 2 and len({len(line) for line in [header, rule, *rows]}) == 1
    assert f"{evaluations['chance'].metrics['ndcg@10']:.4f} [" in rows[1]


def test_the_json_is_plain_and_holds_protocol_metrics_and_intervals():
    evaluation = small_evaluation()
    read = json.loads(json.dumps(evaluation.to_json()))
    assert read["metrics"]["ndcg@10"] == evaluation.metrics["ndcg@10"]
    assert read["intervals"]["ndcg@10"] == list(evaluation.intervals["ndcg@10"])
    assert read["protocol"]["filter_seen"] is True and read["protocol"]["users"] == USERS


@pytest.mark.parametrize("other", [{"filter_seen": False}, {"targets_seed": 10}])
def test_evaluations_of_different_protocols_are_not_compared(other):
    with pytest.raises(DataError, match="cannot be compared: they differ in protocol"):
        small_evaluation().compare(small_evaluation(**other))


@pytest.mark.parametrize(
    ("metric", "words"),
    [("ndgc@10", "Did you mean 'ndcg@10'"), ("coverage@10", "no interval of 'coverage@10'")],
)
def test_a_metric_without_interval_is_refused(metric, words):
    with pytest.raises(ConfigError, match=words):
        comparison_table({"model": small_evaluation()}, metrics=(metric,))


def test_labels_are_written_as_people_write_them():
    assert [label(name) for name in ("ndcg@10", "mrr@5", "recall@1")] == [
        "NDCG@10",
        "MRR@5",
        "Recall@1",
    ]
