"""The report of a classification: complete, escaped, alone in one file."""

import re

import numpy as np
import pytest

from nlp_tasks.charts import curve_chart, metric_name
from nlp_tasks.cls.charts import scatter_chart
from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.metrics import Predictions, classification_metrics
from nlp_tasks.cls.report import (
    MOST_CLASSES,
    ReportContent,
    classification_report_html,
    worst_errors,
)
from nlp_tasks.reports import MOST_CHARACTERS
from tests.pages import check_page

HOSTILE = "<script>alert('$x_1$')</script> & \"无间道\""
ESCAPED = "&lt;script&gt;alert(&#39;$x_1$&#39;)&lt;/script&gt; &amp; &#34;无间道&#34;"
CURVE = [
    {"epoch": 0.5, "step": 10, "loss": 5.0},
    {"epoch": 1.0, "accuracy": 0.08, "mse": 2.0, "micro_f1": 0.1, "spearman": 0.3},
    {"epoch": 2.0, "accuracy": 0.0731, "mse": 1.5, "micro_f1": 0.2, "spearman": 0.2},
]
KINDS = ["single", "multi", "number"]


def predictions_of(kind: str, num_classes: int = 3, num_rows: int = 30) -> Predictions:
    rng = np.random.default_rng(5)
    if kind == "number":
        targets = rng.normal(size=num_rows).astype(np.float32)
        return Predictions(LabelMap("number"), targets, targets + np.float32(0.1) * targets)
    names = (HOSTILE, *(f"class {number}" for number in range(1, num_classes)))
    scores = rng.random((num_rows, num_classes))
    if kind == "single":
        probabilities = scores / scores.sum(axis=1, keepdims=True)
        targets = np.arange(num_rows) % num_classes
        labels = LabelMap("single", names)
        return Predictions(labels, targets, probabilities.argmax(axis=1), probabilities)
    targets = (rng.random((num_rows, num_classes)) < 0.4).astype(np.float32)
    return Predictions(LabelMap("multi", names), targets, scores > 0.5, scores)


def examples_of(predictions: Predictions, pairs: bool = False) -> Examples:
    texts = [f"{HOSTILE} {row}" for row in range(len(predictions))]
    seconds = [f"second {row}" for row in range(len(predictions))] if pairs else None
    rows = np.arange(len(predictions)) + 100
    return Examples(texts, seconds, predictions.targets, predictions.labels, rows)


def page_of(kind: str, **more: object) -> str:
    predictions = predictions_of(kind)
    content: dict[str, object] = {
        "title": HOSTILE,
        "evaluations": {HOSTILE: predictions, "test": predictions},
        "curve": CURVE,
        "errors": worst_errors(predictions, examples_of(predictions, pairs=True)),
        "settings": {"model": {"norm": "pre", "options": {}, "layers": None}, "data": HOSTILE},
        "facts": {HOSTILE: HOSTILE},
        "layer_weights": {HOSTILE: 0.25, "layer 1": 0.75},
    }
    return classification_report_html(ReportContent(**{**content, **more}))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_well_formed_escaped_and_loads_nothing(kind: str):
    page = page_of(kind)
    check_page(page, charts=2 if kind == "number" else 1)
    assert page.count(ESCAPED) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_stands_in_the_page_with_its_interval(kind: str):
    page = page_of(kind)
    for metric, value in classification_metrics(predictions_of(kind)).items():
        assert metric_name(metric) in page and f"{value:.4f}" in page
    assert re.search(r"<small>0\.\d{4} to \d\.\d{4}</small>", page)
    assert "figures of 30 rows of the part" in page
    assert "<td>model.options</td><td>–</td>" in page


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("single", ["Parts", "Training", "Classes", "Confusions", "Worst errors"]),
        ("multi", ["Parts", "Training", "Classes", "Worst errors"]),
        ("number", ["Parts", "Training", "True and predicted numbers", "Worst errors"]),
    ],
)
def test_the_parts_are_those_of_the_kind(kind: str, parts: list[str]):
    assert re.findall("<h2>(.*)</h2>", page_of(kind)) == [*parts, "Layer weights", "Settings"]


def test_the_matrix_shows_every_count_and_the_deeper_colour_where_the_share_is_larger():
    labels = LabelMap("single", ("no", "yes"))
    targets, decisions = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.eye(2)[decisions]
    predictions = Predictions(labels, targets, decisions, probabilities)
    page = classification_report_html(ReportContent("A run", {"dev": predictions}))
    cells = re.findall(r'rgba\(\d+, \d+, \d+, ([\d.]+)\)" title="(.*?)">(\d+)<', page)
    assert [(title, int(count)) for _, title, count in cells] == [
        ("no taken for no: 75.0%", 3),
        ("no taken for yes: 25.0%", 1),
        ("yes taken for yes: 100.0%", 2),
    ]
    assert float(cells[1][0]) < float(cells[0][0]) < float(cells[2][0])
    assert 'class="zero"' in page


def test_of_many_classes_the_most_frequent_confusions_stand_for_the_matrix():
    few = predictions_of("single", MOST_CLASSES, 200)
    many = predictions_of("single", MOST_CLASSES + 1, 200)
    pages = [classification_report_html(ReportContent("A", {"dev": one})) for one in (few, many)]
    assert ['<table class="matrix many">' in page for page in pages] == [True, False]
    assert ["<details open>" in page for page in pages] == [False, True]
    assert all("Most frequent confusions" in page for page in pages)


def test_parts_without_content_are_left_out():
    text = classification_report_html(ReportContent("A run", curve=CURVE))
    assert re.findall("<h2>(.*)</h2>", text) == ["Training"] and "<table" not in text


def test_the_same_content_gives_the_same_page():
    assert page_of("single") == page_of("single")


# errors in words ------------------------------------------------------------------------------


def test_the_worst_error_of_one_label_is_where_the_truth_was_least_likely():
    labels = LabelMap("single", ("no", "yes"))
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.99, 0.01], [0.3, 0.7]])
    targets = np.array([1, 0, 1, 1])
    predictions = Predictions(labels, targets, probabilities.argmax(axis=1), probabilities)
    errors = worst_errors(predictions, examples_of(predictions))
    assert [error.row for error in errors] == [102, 100, 101]
    assert (errors[0].true, errors[0].predicted) == (["yes"], ["no"])
    assert (errors[0].true_probabilities, errors[0].predicted_probabilities) == ([0.01], [0.99])
    assert errors[0].text == f"{HOSTILE} 2" and errors[0].pair is None
    assert [error.row for error in worst_errors(predictions, examples_of(predictions), 1)] == [102]


def test_an_error_in_several_labels_names_the_missing_and_the_wrong():
    labels = LabelMap("multi", ("a", "b", "c"))
    targets = np.float32([[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    scores = np.array([[0.9, 0.2, 0.6], [0.1, 0.1, 0.1], [0.1, 0.1, 0.9]])
    predictions = Predictions(labels, targets, scores > 0.5, scores)
    (error,) = worst_errors(predictions, examples_of(predictions))
    assert (error.true, error.predicted) == (["a", "b"], ["a", "c"])
    assert error.true_probabilities == [0.9, 0.2]
    page = classification_report_html(ReportContent("A run", {"dev": predictions}, errors=[error]))
    assert re.findall(r'<span class="label wrong">(\w+)', page) == ["c"]


def test_the_worst_error_of_a_number_is_the_largest_difference():
    predictions = Predictions(LabelMap("number"), np.float32([1, 2, 3]), np.float32([1, 4, 2.5]))
    errors = worst_errors(predictions, examples_of(predictions, pairs=True))
    assert [(error.row, error.true, error.predicted) for error in errors] == [
        (101, ["2"], ["4"]),
        (102, ["3"], ["2.5"]),
    ]
    assert errors[0].pair == "second 1"


def test_a_run_without_errors_has_none_to_show():
    predictions = predictions_of("single")
    right = Predictions(
        predictions.labels, predictions.targets, predictions.targets, predictions.probabilities_NC
    )
    assert worst_errors(right, examples_of(right)) == []


def test_a_long_text_is_cut_in_the_page():
    predictions = Predictions(LabelMap("number"), np.float32([1]), np.float32([2]))
    texts = ["x" * (MOST_CHARACTERS + 1)]
    examples = Examples(texts, None, predictions.targets, predictions.labels, np.arange(1))
    errors = worst_errors(predictions, examples)
    page = classification_report_html(ReportContent("A run", {"dev": predictions}, errors=errors))
    assert "x" * (MOST_CHARACTERS - 1) + "…" in page and texts[0] not in page


# charts ---------------------------------------------------------------------------------------


def test_the_curve_names_the_best_epoch_of_a_metric_and_the_smallest_error():
    assert "Accuracy, best 0.0800 at epoch 1" in curve_chart(CURVE, "accuracy")
    assert "Mean squared error, best 1.5000 at epoch 2" in curve_chart(CURVE, "mse")


def test_a_training_that_is_judged_by_the_loss_shows_that_of_the_validation_rows():
    curve = [{"epoch": 1.0, "loss": 0.1, "validation_loss": 0.7}, {"epoch": 2.0, "loss": 0.05}]
    assert "Loss, best 0.7000 at epoch 1" in curve_chart(curve, "loss")


def test_a_curve_without_validation_says_so():
    assert "not recorded" in curve_chart(CURVE[:1], "accuracy")


def test_of_very_many_numbers_not_all_are_drawn():
    numbers = np.arange(9000, dtype=np.float32)
    assert scatter_chart(numbers, numbers).count("<use") < 2100


def test_a_metric_without_a_name_of_its_own_is_written_plainly():
    assert metric_name("my_metric") == "My metric" and metric_name("map") != "Map"
