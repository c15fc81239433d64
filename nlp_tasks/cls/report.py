"""The report of a classification run: one HTML file that holds everything and opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup

from idbert.evaluation.page import render_page
from nlp_tasks.cls.charts import SMALLER_IS_BETTER, curve_chart, metric_name, scatter_chart
from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.metrics import (
    DEFAULT_METRIC,
    METRICS_OF,
    Predictions,
    classification_metrics,
    confusion,
    per_class,
)
from nlp_tasks.cls.resampling import NOT_RESAMPLED, metric_interval

TEMPLATE = "report.html"
WORST = 10
"""Errors shown in words."""
MOST_CLASSES = 24
"""Of more classes no matrix is drawn, which nobody could read, but the most frequent confusions."""
MOST_CONFUSIONS = 12
MOST_CHARACTERS = 600
"""Shown of a text."""
PROBABILITY_FLOOR = 1e-9


@dataclass(frozen=True)
class WrongExample:
    """A text of which something false was predicted.

    Attributes:
        row: its place in the source, from 0.
        text: the text.
        pair: the second text of a pair.
        true: the labels or the number that it has.
        predicted: those that were predicted.
        true_probabilities: of each true label; empty for numbers.
        predicted_probabilities: of each predicted label; empty for numbers.
    """

    row: int
    text: str
    pair: str | None
    true: Sequence[str]
    predicted: Sequence[str]
    true_probabilities: Sequence[float] = ()
    predicted_probabilities: Sequence[float] = ()


@dataclass(frozen=True)
class ReportContent:
    """What a report shows; a part without content is left out.

    Attributes:
        title: of the page, such as the model and the data.
        evaluations: predictions by the name of their part ("validation", "test"); the first is
            shown in detail.
        curve: training curve, points with "epoch" and "loss" or the metric.
        metric: of the curve; None: the default of the labels' kind.
        errors: the worst, from `worst_errors`.
        settings: the resolved configuration; groups may be nested.
        facts: what was trained on what, by name, such as rows, labels and duration.
        layer_weights: share of each hidden state in the fusion, by name, from the first layer up.
    """

    title: str
    evaluations: Mapping[str, Predictions] = field(default_factory=dict)
    curve: Sequence[Mapping[str, float]] = ()
    metric: str | None = None
    errors: Sequence[WrongExample] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    layer_weights: Mapping[str, float] = field(default_factory=dict)


def worst_errors(
    predictions: Predictions, examples: Examples, count: int = WORST
) -> list[WrongExample]:
    """Return the rows that are furthest from the truth, the worst first.

    One label: wrong decisions by the cross-entropy, -log p(true). Several: rows with a wrong or a
    missing label by the mean of the labels' binary cross-entropies. Numbers: by |error|.

    Args:
        predictions: of the examples, in their order.
        examples: the texts.
        count: how many at most.
    """
    wrong_N, badness_N = _badness(predictions)
    candidates = np.flatnonzero(wrong_N)
    worst = candidates[np.argsort(-badness_N[candidates], kind="stable")][:count]
    return [_wrong_example(predictions, examples, int(place)) for place in worst]


def classification_report_html(content: ReportContent) -> str:
    """Return the report as one HTML page: styles and charts inside, nothing loaded, no script.

    Whatever comes from the data (texts, labels, settings) is escaped.
    """
    main = next(iter(content.evaluations.values()), None)
    kind = main.labels.kind if main else None
    metric = content.metric or (DEFAULT_METRIC[kind] if kind else "accuracy")
    is_single = kind == "single"
    return render_page(
        "nlp_tasks.cls",
        TEMPLATE,
        title=content.title,
        settings=content.settings,
        layer_weights=content.layer_weights,
        content=content,
        kind=kind,
        metric_name=metric_name,
        smaller_is_better=SMALLER_IS_BETTER,
        metrics=METRICS_OF[kind] if kind else (),
        figures={name: classification_metrics(p) for name, p in content.evaluations.items()},
        intervals={name: _intervals(p) for name, p in content.evaluations.items()},
        rows={name: len(p) for name, p in content.evaluations.items()},
        main_name=next(iter(content.evaluations), ""),
        classes=per_class(main) if main and kind != "number" else {},
        matrix=_matrix(main) if main and is_single else [],
        confusions=_confusions(main) if main and is_single else [],
        names=main.labels.names if main else (),
        scatter_svg=_scatter(main) if main and kind == "number" else "",
        curve_svg=Markup(curve_chart(content.curve, metric)) if content.curve else "",
        curve_metric=metric_name(metric),
        cut=_cut,
    )


def _badness(predictions: Predictions) -> tuple[np.ndarray, Float64[np.ndarray, "N"]]:
    """Return which rows are wrong, and how far each is from the truth."""
    targets, decisions = predictions.targets, predictions.decisions
    if predictions.labels.kind == "number":
        errors_N = np.abs(decisions.astype(np.float64) - targets)
        return errors_N > 0, errors_N
    probabilities_NC = np.asarray(predictions.probabilities_NC, dtype=np.float64)
    if predictions.labels.kind == "single":
        true_N = probabilities_NC[np.arange(len(targets)), targets]
        return targets != decisions, -np.log(np.maximum(true_N, PROBABILITY_FLOOR))
    likely_NC = np.where(targets > 0, probabilities_NC, 1 - probabilities_NC)
    losses_N = -np.log(np.maximum(likely_NC, PROBABILITY_FLOOR)).mean(axis=1)
    return ((targets > 0) != (decisions > 0)).any(axis=1), losses_N


def _wrong_example(predictions: Predictions, examples: Examples, place: int) -> WrongExample:
    labels, target = predictions.labels, predictions.targets[place]
    decision = predictions.decisions[place]
    text = examples.texts[place]
    pair = None if examples.pairs is None else examples.pairs[place]
    row = int(examples.rows_N[place])
    if labels.kind == "number":
        return WrongExample(row, text, pair, [f"{target:.4g}"], [f"{decision:.4g}"])
    several = labels.kind == "multi"
    true = np.flatnonzero(target > 0) if several else np.array([target])
    predicted = np.flatnonzero(decision > 0) if several else np.array([decision])
    probabilities_C = predictions.probabilities_NC[place]  # type: ignore[index]  # not a number
    return WrongExample(
        row,
        text,
        pair,
        [labels.names[number] for number in true],
        [labels.names[number] for number in predicted],
        [float(probabilities_C[number]) for number in true],
        [float(probabilities_C[number]) for number in predicted],
    )


def _intervals(predictions: Predictions) -> dict[str, tuple[float, float]]:
    metrics = METRICS_OF[predictions.labels.kind]
    return {
        metric: metric_interval(metric, predictions)
        for metric in metrics
        if metric not in NOT_RESAMPLED
    }


def _matrix(predictions: Predictions) -> list[list[tuple[int, float]]]:
    """Return the confusion matrix, each count with its share of the true class's rows."""
    if predictions.labels.num_outputs > MOST_CLASSES:
        return []
    counts_CC = confusion(predictions)
    shares_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    return [
        list(zip(counts, shares, strict=True))
        for counts, shares in zip(counts_CC.tolist(), shares_CC.tolist(), strict=True)
    ]


def _confusions(predictions: Predictions) -> list[tuple[str, str, int, float]]:
    """Return the most frequent confusions: true and predicted label, count, share of the true."""
    counts_CC = confusion(predictions)
    support_C = counts_CC.sum(axis=1)
    names = predictions.labels.names
    np.fill_diagonal(counts_CC, 0)
    order = np.argsort(-counts_CC, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [
        (
            names[true],
            names[taken],
            int(counts_CC[true, taken]),
            counts_CC[true, taken] / support_C[true],
        )
        for true, taken in pairs
        if counts_CC[true, taken]
    ]


def _scatter(predictions: Predictions) -> Markup:
    return Markup(scatter_chart(predictions.targets, predictions.decisions))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
