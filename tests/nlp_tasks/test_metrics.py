"""Figures of classification: by hand, by sklearn, and what resampling says of them."""

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from idbert.errors import ConfigError, DataError, ShapeError
from idbert.evaluation.bootstrap import interval, paired
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.metrics import (
    DEFAULT_METRIC,
    METRICS_OF,
    Predictions,
    classification_metrics,
    confusion,
    evaluation_of,
    per_class,
)
from nlp_tasks.cls.resampling import NOT_RESAMPLED, metric_interval, paired_rows

ABC = LabelMap("single", ("a", "b", "c"))
RESAMPLED = [
    (kind, metric)
    for kind, metrics in METRICS_OF.items()
    for metric in metrics
    if metric not in NOT_RESAMPLED
]


def single(targets: list[int], decisions: list[int], labels: LabelMap = ABC) -> Predictions:
    probabilities = np.full((len(targets), labels.num_outputs), 0.1)
    probabilities[np.arange(len(targets)), decisions] = 0.8
    return Predictions(labels, np.array(targets), np.array(decisions), probabilities)


def random_predictions(kind: str, seed: int = 0, num_rows: int = 120) -> Predictions:
    """Targets whatever the seed, and predictions that are right about half the time."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(77)
    if kind == "single":
        targets = truth.integers(4, size=num_rows)
        scores = rng.normal(size=(num_rows, 4)) + 1.2 * np.eye(4)[targets]
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        labels = LabelMap("single", tuple("abcd"))
        return Predictions(labels, targets, probabilities.argmax(axis=1), probabilities)
    if kind == "multi":
        targets = (truth.random((num_rows, 4)) < 0.3).astype(np.float32)
        probabilities = 1 / (1 + np.exp(-rng.normal(size=(num_rows, 4)) - 3 * targets + 1.5))
        labels = LabelMap("multi", tuple("abcd"))
        return Predictions(labels, targets, probabilities > 0.5, probabilities)
    targets = truth.normal(size=num_rows).astype(np.float32)
    decisions = targets + rng.normal(size=num_rows).astype(np.float32)
    return Predictions(LabelMap("number"), targets, decisions)


# by hand --------------------------------------------------------------------------------------


def test_one_label_by_hand():
    predictions = single([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])
    assert classification_metrics(predictions) == pytest.approx(
        {"accuracy": 4 / 6, "macro_f1": (0.8 + 0.5 + 2 / 3) / 3, "micro_f1": 4 / 6}
    )
    assert per_class(predictions)["a"] == pytest.approx(
        {"precision": 1, "recall": 2 / 3, "f1": 0.8, "support": 3, "predicted": 2}
    )
    assert confusion(predictions).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_macro_f1_differs_from_accuracy_where_classes_are_uneven():
    figures = classification_metrics(single([0] * 9 + [1], [0] * 10))
    assert figures["accuracy"] == 0.9
    assert figures["macro_f1"] == pytest.approx((18 / 19 + 0) / 2)


def test_a_class_that_never_occurs_does_not_pull_the_mean_down():
    assert classification_metrics(single([0, 1], [0, 1]))["macro_f1"] == 1
    assert classification_metrics(single([0, 1], [0, 2]))["macro_f1"] == pytest.approx(1 / 3)
    assert per_class(single([0, 1], [0, 1]))["c"] == {
        "precision": 0, "recall": 0, "f1": 0, "support": 0, "predicted": 0,
    }  # fmt: skip


def test_several_labels_by_hand():
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
    decisions = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=bool)
    scores = np.array([[0.9, 0.1, 0], [0.8, 0.4, 0], [0.1, 0.2, 0], [0.7, 0.9, 0]])
    predictions = Predictions(LabelMap("multi", ("a", "b", "c")), targets, decisions, scores)
    assert classification_metrics(predictions) == pytest.approx(
        {"subset_accuracy": 2 / 4, "micro_f1": 6 / 8, "macro_f1": (4 / 5 + 2 / 3) / 2, "map": 1}
    )
    assert per_class(predictions)["b"] == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2, "predicted": 1}
    )


def test_a_label_that_stands_alone_is_measured_where_it_occurs():
    targets, decisions = np.float32([[1], [0], [0], [0], [1]]), np.array([[1], [0], [0], [1], [1]])
    labels = LabelMap("multi", ("spam",))
    predictions = Predictions(labels, targets, decisions > 0, decisions.astype(np.float32))
    figures = {"precision": 2 / 3, "recall": 1, "f1": 0.8, "support": 2, "predicted": 3}
    assert per_class(predictions) == {"spam": pytest.approx(figures)}
    metrics = classification_metrics(predictions)
    assert metrics["macro_f1"] == metrics["micro_f1"] == pytest.approx(0.8)
    assert metrics["subset_accuracy"] == pytest.approx(0.8)


def test_mean_average_precision_by_hand():
    targets = np.array([[1], [0], [1]], dtype=np.float32)
    scores = np.array([[0.9], [0.8], [0.7]])
    predictions = Predictions(LabelMap("multi", ("a",)), targets, scores > 0.5, scores)
    assert classification_metrics(predictions)["map"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_numbers_by_hand():
    predictions = Predictions(
        LabelMap("number"), np.float32([1, 2, 3, 4]), np.float32([1, 2, 3, 8])
    )
    figures = classification_metrics(predictions)
    assert figures["spearman"] == pytest.approx(1)
    assert figures["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 2, 3, 8])[0, 1])
    assert (figures["mse"], figures["mae"]) == (4, 1)


def test_a_constant_prediction_has_no_correlation_and_no_nan():
    constant = Predictions(LabelMap("number"), np.float32([1, 2, 3]), np.float32([2, 2, 2]))
    figures = classification_metrics(constant)
    assert figures["pearson"] == figures["spearman"] == 0
    assert metric_interval("pearson", constant) == (0, 0)
    one = Predictions(LabelMap("number"), np.float32([1]), np.float32([2]))
    assert classification_metrics(one)["pearson"] == 0


def test_rows_without_any_label_give_numbers():
    nothing = np.zeros((3, 2))
    labels = LabelMap("multi", ("a", "b"))
    predictions = Predictions(labels, np.float32(nothing), nothing > 0, nothing)
    assert classification_metrics(predictions) == {
        "subset_accuracy": 1, "micro_f1": 0, "macro_f1": 0, "map": 0,
    }  # fmt: skip


# by sklearn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_f1_is_that_of_sklearn(kind: str):
    predictions = random_predictions(kind)
    figures = classification_metrics(predictions)
    for average in ("micro", "macro"):
        expected = sklearn_metrics.f1_score(
            predictions.targets, predictions.decisions, average=average
        )
        assert figures[f"{average}_f1"] == pytest.approx(expected)


def test_one_labels_micro_f1_is_its_accuracy():
    figures = classification_metrics(random_predictions("single"))
    assert figures["micro_f1"] == pytest.approx(figures["accuracy"])


def test_all_figures_can_be_written_as_json_and_are_those_of_the_kind():
    for kind, metrics in METRICS_OF.items():
        predictions = random_predictions(kind)
        assert tuple(classification_metrics(predictions)) == metrics
        assert DEFAULT_METRIC[kind] in metrics
        value = evaluation_of(predictions)
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        assert value["rows"] == 120
        assert ("per_class" in value, "confusion" in value) == (kind != "number", kind == "single")


def test_a_confusion_matrix_too_large_to_read_is_left_out(monkeypatch):
    monkeypatch.setattr("nlp_tasks.cls.metrics.MOST_CONFUSED", 2)
    assert "confusion" not in evaluation_of(random_predictions("single"))


# resampling -----------------------------------------------------------------------------------


def drawn_rows(predictions: Predictions, rows: np.ndarray) -> Predictions:
    probabilities = predictions.probabilities_NC
    return Predictions(
        predictions.labels,
        predictions.targets[rows],
        predictions.decisions[rows],
        None if probabilities is None else probabilities[rows],
    )


@pytest.mark.parametrize(("kind", "metric"), RESAMPLED)
def test_the_difference_is_that_of_the_metrics(kind: str, metric: str):
    a, b = random_predictions(kind, 1), random_predictions(kind, 2)
    expected = classification_metrics(a)[metric] - classification_metrics(b)[metric]
    difference, low, high = paired_rows(metric, a, b, resamples=200)
    assert difference == pytest.approx(expected, abs=1e-6)
    assert low < difference < high


@pytest.mark.parametrize("kind", METRICS_OF)
def test_an_interval_is_that_of_the_metric_over_drawn_rows(kind: str):
    predictions = random_predictions(kind)
    rng = np.random.default_rng(4)
    draws = [rng.integers(120, size=120) for _ in range(100)]
    figures = [classification_metrics(drawn_rows(predictions, rows)) for rows in draws]
    for metric in [metric for one, metric in RESAMPLED if one == kind]:
        ends = np.quantile([values[metric] for values in figures], [0.025, 0.975])
        ours = metric_interval(metric, predictions)
        np.testing.assert_allclose(ours, ends, atol=0.25 * np.ptp(ends))


def test_differences_in_accuracy_are_the_paired_bootstrap_of_correct_rows():
    a, b = random_predictions("single", 1), random_predictions("single", 2)
    correct_a, correct_b = ((one.targets == one.decisions).astype(float) for one in (a, b))
    ours = paired_rows("accuracy", a, b, seed=3)
    np.testing.assert_allclose(ours, paired(correct_a, correct_b, seed=3), atol=1e-12)
    np.testing.assert_allclose(metric_interval("accuracy", a), interval(correct_a), atol=1e-12)


def test_a_run_does_not_differ_from_itself():
    a = random_predictions("multi")
    assert paired_rows("macro_f1", a, a) == (0, 0, 0)


def test_the_interval_of_a_correlation_agrees_with_fishers():
    predictions = random_predictions("number", num_rows=1500)
    low, high = metric_interval("pearson", predictions)
    result = stats.pearsonr(predictions.targets, predictions.decisions)
    expected = result.confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_large_numbers_do_not_drown_a_correlation():
    near = random_predictions("number")
    far = Predictions(near.labels, near.targets + 1000, near.decisions + 1000)
    assert metric_interval("pearson", far) == pytest.approx(
        metric_interval("pearson", near), abs=1e-3
    )


def test_level_seed_and_resamples_act():
    a, b = random_predictions("single", 1), random_predictions("single", 2)
    usual = paired_rows("macro_f1", a, b)
    narrow = paired_rows("macro_f1", a, b, level=0.5)
    assert usual.low < narrow.low < narrow.high < usual.high
    assert paired_rows("macro_f1", a, b, seed=1) != usual
    assert paired_rows("macro_f1", a, b, resamples=10) != usual
    assert paired_rows("macro_f1", a, b) == usual


# refusals -------------------------------------------------------------------------------------


def test_runs_on_other_rows_cannot_be_paired():
    a = random_predictions("single")
    with pytest.raises(DataError, match="cannot be paired: their rows or labels differ"):
        paired_rows("accuracy", a, drawn_rows(a, np.arange(119, -1, -1)))


@pytest.mark.parametrize(
    ("kind", "metric", "words"),
    [
        ("multi", "map", "'map' cannot be resampled; labels of kind multi have subset_accuracy"),
        ("number", "spearman", "'spearman' cannot be resampled"),
        ("single", "acuracy", "Did you mean 'accuracy'"),
    ],
)
def test_metrics_that_cannot_be_resampled_are_refused(kind: str, metric: str, words: str):
    a = random_predictions(kind)
    for resample in (lambda: paired_rows(metric, a, a), lambda: metric_interval(metric, a)):
        with pytest.raises(ConfigError, match=words):
            resample()


def test_a_level_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="level is 1; give a share between 0 and 1"):
        metric_interval("accuracy", random_predictions("single"), level=1)


@pytest.mark.parametrize("kind", ["multi", "number"])
def test_confusion_needs_one_label_a_row(kind: str):
    with pytest.raises(ConfigError, match=f"needs one label a row, .* of kind {kind}"):
        confusion(random_predictions(kind))


def test_numbers_have_no_classes():
    with pytest.raises(ConfigError, match="numbers have no classes"):
        per_class(random_predictions("number"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"decisions": np.zeros(2, dtype=np.int64)}, ShapeError, "Give one decision for every row"),
        ({"probabilities_NC": np.zeros((3, 2))}, ShapeError, r"Give \(3, 3\): rows and classes"),
        ({"probabilities_NC": None}, ShapeError, "probabilities have shape None"),
        (
            {
                "targets": np.zeros(0, dtype=np.int64),
                "decisions": np.zeros(0, dtype=np.int64),
                "probabilities_NC": np.zeros((0, 3)),
            },
            DataError,
            "there are no rows to evaluate",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_refused(change: Any, error: Any, words: str):
    fitting = {
        "labels": ABC,
        "targets": np.zeros(3, dtype=np.int64),
        "decisions": np.zeros(3, dtype=np.int64),
        "probabilities_NC": np.zeros((3, 3)),
    }
    Predictions(**fitting)
    with pytest.raises(error, match=words):
        Predictions(**{**fitting, **change})


def test_figures_are_plain_floats():
    for kind in METRICS_OF:
        values = classification_metrics(random_predictions(kind)).values()
        assert all(type(value) is float and math.isfinite(value) for value in values)
