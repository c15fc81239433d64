"""Figures of matching: those of scikit-learn and scipy, thresholds, search, resampling."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from idbert.errors import ConfigError, DataError, ShapeError
from nlp_tasks.match.metrics import (
    DEFAULT_METRIC,
    METRICS_OF,
    best_threshold,
    best_thresholds,
    retrieval_metrics,
    retrieval_task,
    similarity_metrics,
)
from nlp_tasks.match.pairs import PairExamples
from nlp_tasks.match.resampling import (
    RESAMPLED,
    ScoredPairs,
    paired_similarity,
    paired_spearman,
    similarity_interval,
)

RNG = np.random.default_rng(3)
TRUE = RNG.random(200).astype(np.float32).round(1) * 5
GOOD = (TRUE / 5 + RNG.normal(size=200) * 0.2).astype(np.float32)
POOR = (TRUE / 5 + RNG.normal(size=200) * 0.9).astype(np.float32).round(1)
SAME = (TRUE > 3).astype(np.int64)


# figures --------------------------------------------------------------------------------------


def test_the_correlations_are_those_of_scipy():
    figures = similarity_metrics(GOOD, TRUE, "score")
    assert figures["spearman"] == pytest.approx(stats.spearmanr(GOOD, TRUE).statistic)
    assert figures["pearson"] == pytest.approx(stats.pearsonr(GOOD, TRUE).statistic, abs=1e-6)
    constant = similarity_metrics(np.ones(200, np.float32), TRUE, "score")
    assert constant == {"spearman": 0, "pearson": 0}


def test_the_figures_of_two_labels_are_those_of_scikit_learn():
    figures = similarity_metrics(GOOD, SAME, "binary", {"accuracy": 0.6, "f1": 0.4})
    assert figures["auc"] == pytest.approx(roc_auc_score(SAME, GOOD))
    assert figures["accuracy"] == pytest.approx(accuracy_score(SAME, GOOD >= 0.6))
    assert figures["f1"] == pytest.approx(f1_score(SAME, GOOD >= 0.4))
    assert (figures["accuracy_threshold"], figures["f1_threshold"]) == (0.6, 0.4)
    f1 = 2 / (1 / figures["precision"] + 1 / figures["recall"])
    assert figures["f1"] == pytest.approx(f1)
    assert similarity_metrics(GOOD, SAME, "binary", 0.5)["f1_threshold"] == 0.5


def test_one_label_alone_has_no_area():
    figures = similarity_metrics(GOOD, np.zeros(200, np.int64), "binary")
    assert (figures["auc"], figures["average_precision"], figures["f1"]) == (0.5, 0, 0)
    assert figures["accuracy"] == 1


def test_of_classes_the_largest_score_decides():
    logits = np.float32([[2, 1, 0], [0, 1, 0.5], [0, 1, 2], [3, 1, 2]])
    figures = similarity_metrics(logits, np.array([0, 1, 2, 2]), "class")
    assert figures["accuracy"] == 0.75
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)


@pytest.mark.parametrize("kind", ["binary", "score", "class"])
def test_every_kind_has_the_figures_that_are_named(kind):
    scores = np.stack([GOOD, POOR], axis=1) if kind == "class" else GOOD
    targets = TRUE if kind == "score" else SAME
    figures = similarity_metrics(scores, targets, kind)
    thresholds = ("accuracy_threshold", "f1_threshold") if kind == "binary" else ()
    assert tuple(figures) == METRICS_OF[kind] + thresholds
    assert DEFAULT_METRIC[kind] in figures


# thresholds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
@pytest.mark.parametrize("scores", [GOOD, POOR])
def test_no_threshold_is_better_than_the_best(metric, scores):
    score = {"accuracy": accuracy_score, "f1": f1_score}[metric]
    best = score(SAME, scores.astype(np.float64) >= best_threshold(scores, SAME, metric))
    tried = [score(SAME, scores >= cut) for cut in np.linspace(-1, 2, 40)]
    assert best == pytest.approx(max([*tried, best])) and best > 0.5


def test_the_best_threshold_lies_between_the_two_labels():
    scores, targets = np.array([0.9, 0.8, 0.4, 0.1]), np.array([1, 1, 0, 0])
    assert best_thresholds(scores, targets) == {
        "accuracy": pytest.approx(0.6),
        "f1": pytest.approx(0.6),
    }


def test_where_no_pair_is_the_same_none_is_called_so():
    scores, targets = np.array([0.9, 0.8, 0.7]), np.array([0, 0, 0])
    assert best_threshold(scores, targets) > 0.9
    assert best_threshold(scores, targets + 1) < 0.7
    # Where the scores tell nothing, the majority is called.
    equal = np.full(5, 0.5, np.float32)
    assert similarity_metrics(equal, np.array([1, 0, 0, 0, 0]), "binary")["accuracy"] == 0.8


def test_a_threshold_of_dev_is_used_as_it_is():
    dev = best_thresholds(GOOD, SAME)
    test = similarity_metrics(POOR, SAME, "binary", dev)
    assert test["accuracy"] < similarity_metrics(POOR, SAME, "binary")["accuracy"]


# search ---------------------------------------------------------------------------------------


def test_search_is_judged_by_the_rank_of_what_is_right():
    ranked = np.array([[3, 1, 2, 0], [0, 1, 2, 3], [2, -1, -1, -1]])
    figures = retrieval_metrics(ranked, [[2], [0, 3], [1]], at=(1, 3, 4, 10))
    assert figures["mrr"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert figures["recall@1"] == pytest.approx((0 + 0.5 + 0) / 3)
    assert figures["recall@3"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert figures["recall@4"] == pytest.approx((1 + 1 + 0) / 3)
    assert "recall@10" not in figures


def test_recall_of_a_random_ranking_is_that_of_sets():
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(40)[:20] for _ in range(30)])
    relevant = [rng.choice(40, size=rng.integers(1, 6), replace=False) for _ in range(30)]
    figures = retrieval_metrics(ranked, relevant)
    for k in (1, 10):
        shares = [
            len({*row[:k]} & {*one}) / len(one)
            for row, one in zip(ranked.tolist(), [one.tolist() for one in relevant], strict=True)
        ]
        assert figures[f"recall@{k}"] == pytest.approx(np.mean(shares))


def test_pairs_make_a_search_of_first_texts_among_second_ones():
    examples = PairExamples(
        firsts=["a", "a", "b", "c"],
        seconds=["x", "y", "x", "z"],
        targets=np.array([1, 1, 1, 0]),
        kind="binary",
        rows=np.arange(4),
    )
    assert retrieval_task(examples) == (["a", "b"], ["x", "y", "z"], [[0, 1], [0]])
    with pytest.raises(DataError, match="no pair belongs together"):
        retrieval_task(examples.take([3]))


# resampling -----------------------------------------------------------------------------------


def drawn_rows(size: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(size, size=(resamples, size))


def test_the_paired_spearman_is_that_of_the_drawn_rows():
    rows = drawn_rows(200, 50, seed=4)
    differences = [
        stats.spearmanr(GOOD[row], TRUE[row]).statistic
        - stats.spearmanr(POOR[row], TRUE[row]).statistic
        for row in rows
    ]
    found = paired_spearman(GOOD, POOR, TRUE, resamples=50, seed=4)
    assert found.low == pytest.approx(np.quantile(differences, 0.025))
    assert found.high == pytest.approx(np.quantile(differences, 0.975))
    whole = [similarity_metrics(scores, TRUE, "score")["spearman"] for scores in (GOOD, POOR)]
    assert found.difference == pytest.approx(whole[0] - whole[1])
    assert 0 < found.low < found.difference < found.high


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("pearson", "score"),
        ("spearman", "score"),
        ("auc", "binary"),
        ("accuracy", "binary"),
        ("f1", "binary"),
    ],
)
def test_an_interval_is_that_of_the_metric_of_the_drawn_rows(metric, kind):
    targets = TRUE if kind == "score" else SAME
    threshold = 0.55 if kind == "binary" else None
    values = [
        similarity_metrics(GOOD[row], targets[row], kind, threshold)[metric]
        for row in drawn_rows(200, 40, seed=0)
    ]
    found = similarity_interval(metric, ScoredPairs(GOOD, targets, kind, threshold), resamples=40)
    assert found == pytest.approx(
        (np.quantile(values, 0.025), np.quantile(values, 0.975)), abs=1e-6
    )


def test_the_intervals_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch):
    pairs = ScoredPairs(GOOD, TRUE, "score")
    whole = similarity_interval("spearman", pairs, resamples=40)
    monkeypatch.setattr("nlp_tasks.match.resampling.CHUNK_BYTES", 8 * 200 * 7)
    assert similarity_interval("spearman", pairs, resamples=40) == pytest.approx(whole)


def test_a_run_is_no_better_than_itself():
    logits = np.stack([GOOD, POOR], axis=1)
    for kind, metrics in RESAMPLED.items():
        scores, targets = (logits if kind == "class" else GOOD), (TRUE if kind == "score" else SAME)
        for metric in metrics:
            pairs = ScoredPairs(scores, targets, kind)
            assert paired_similarity(metric, pairs, pairs, resamples=20) == (0, 0, 0)


# refusals -------------------------------------------------------------------------------------


def test_what_has_no_figures_is_refused():
    with pytest.raises(ConfigError, match="pairs without labels have no figures"):
        similarity_metrics(GOOD, TRUE, "none")
    with pytest.raises(ConfigError, match="a threshold cannot act on pairs of kind score"):
        similarity_metrics(GOOD, TRUE, "score", 0.5)
    with pytest.raises(ConfigError, match="the threshold for f1 is missing"):
        similarity_metrics(GOOD, SAME, "binary", {"accuracy": 0.5})
    with pytest.raises(ConfigError, match="a threshold is chosen by accuracy or f1"):
        best_threshold(GOOD, SAME, "auc")
    with pytest.raises(ShapeError, match=r"scores have shape \(200,\).*one score a pair and class"):
        similarity_metrics(GOOD, SAME, "class")
    with pytest.raises(DataError, match="there are no pairs to evaluate"):
        similarity_metrics(GOOD[:0], TRUE[:0], "score")
    with pytest.raises(DataError, match="1 of 3 scores are NaN or infinite, the first in place 1"):
        similarity_metrics(np.float32([1, np.nan, 2]), TRUE[:3], "score")


def test_a_search_that_cannot_be_judged_is_refused():
    ranked = np.array([[0, 1], [1, 0]])
    with pytest.raises(ShapeError, match="2 rankings, but 1 lists"):
        retrieval_metrics(ranked, [[0]])
    with pytest.raises(DataError, match="1 of 2 queries have nothing that is right, .* number 1"):
        retrieval_metrics(ranked, [[0], []])
    with pytest.raises(ConfigError, match="rankings of 2 give no recall at 10"):
        retrieval_metrics(ranked, [[0], [0]], at=(10,))
    with pytest.raises(DataError, match="no queries"):
        retrieval_metrics(ranked[:0], [])


def test_what_cannot_be_resampled_is_refused():
    pairs = ScoredPairs(GOOD, SAME, "binary")
    with pytest.raises(ConfigError, match="'average_precision' cannot be resampled.*auc, accuracy"):
        similarity_interval("average_precision", pairs)
    with pytest.raises(ConfigError, match="resamples is 0"):
        similarity_interval("auc", pairs, resamples=0)
    with pytest.raises(ConfigError, match="level is 1"):
        similarity_interval("auc", pairs, level=1)
    with pytest.raises(DataError, match="the two runs cannot be paired"):
        paired_similarity("auc", pairs, ScoredPairs(GOOD, 1 - SAME, "binary"))
