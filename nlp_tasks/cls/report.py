"""The report of a classification run: one HTML file that holds everything and opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from idbert.evaluation.bootstrap import Interval
from idbert.evaluation.page import PageContent
from nlp_tasks.cls.charts import scatter_chart
from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.metrics import (
    DEFAULT_METRIC,
    METRICS_OF,
    Predictions,
    class_arrays,
    classification_metrics,
    confusion,
    per_class,
)
from nlp_tasks.cls.resampling import NOT_RESAMPLED, metric_interval
from nlp_tasks.reports import WORST, PartFigures, render_report

TEMPLATE = "nlp_tasks/cls/report.html"
MOST_CLASSES = 24
"""Of more classes no matrix is drawn, which nobody could read, but the most frequent confusions."""
MOST_CONFUSIONS = 12
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
class ReportContent(PageContent):
    """What a report shows beside the content of every page.

    Attributes:
        evaluations: predictions by the name of their part ("validation", "test"); the first is
            shown in detail.
        metric: of the training curve; None: the default of the labels' kind.
        errors: the worst, from `worst_errors`.
    """

    evaluations: Mapping[str, Predictions] = field(default_factory=dict)
    metric: str | None = None
    errors: Sequence[WrongExample] = ()


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
    metrics = METRICS_OF[kind] if kind else ()
    is_single = kind == "single"
    return render_report(
        TEMPLATE,
        content,
        [
            PartFigures(name, len(part), classification_metrics(part), _intervals(part))
            for name, part in content.evaluations.items()
        ],
        unit="rows",
        metrics=metrics,
        headline=[name for name in metrics if not (is_single and name == "micro_f1")],
        metric=content.metric or (DEFAULT_METRIC[kind] if kind else "accuracy"),
        kind=kind,
        classes=per_class(main) if main and kind != "number" else {},
        matrix=_matrix(main) if main and is_single else [],
        confusions=_confusions(main) if main and is_single else [],
        names=main.labels.names if main else (),
        scatter_svg=scatter_chart(main.targets, main.decisions)
        if main and kind == "number"
        else "",
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


def _intervals(predictions: Predictions) -> dict[str, Interval]:
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
    targets, decisions = class_arrays(predictions)
    is_wrong = targets != decisions
    pairs, counts = np.unique(
        np.stack([targets[is_wrong], decisions[is_wrong]]), axis=1, return_counts=True
    )
    names, support_C = predictions.labels.names, np.bincount(targets)
    return [
        (
            names[pairs[0, place]],
            names[pairs[1, place]],
            int(counts[place]),
            counts[place] / support_C[pairs[0, place]],
        )
        for place in np.argsort(-counts, kind="stable")[:MOST_CONFUSIONS]
    ]
