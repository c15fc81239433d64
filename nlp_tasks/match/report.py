"""The report of a matching run: one HTML file that holds everything and opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_softmax
from scipy.stats import rankdata

from idbert.errors import ShapeError
from idbert.evaluation.bootstrap import Interval
from idbert.evaluation.page import PageContent
from nlp_tasks.charts import metric_name
from nlp_tasks.match.charts import score_chart, threshold_chart
from nlp_tasks.match.metrics import DEFAULT_METRIC, METRICS_OF, best_thresholds, similarity_metrics
from nlp_tasks.match.pairs import NO_ROW, PairExamples
from nlp_tasks.match.resampling import RESAMPLED, ScoredPairs, similarity_interval
from nlp_tasks.reports import WORST, PartFigures, render_report

TEMPLATE = "nlp_tasks/match/report.html"


@dataclass(frozen=True)
class WrongPair:
    """A pair of which something false was said.

    Attributes:
        row: its place in the source, from 0; NO_ROW if it stands in none.
        first: its first text.
        second: its second text.
        true: its label, in words.
        predicted: what was said instead.
        score: of the pair; of kind "class" the logarithm of the true class's probability.
    """

    row: int
    first: str
    second: str
    true: str
    predicted: str
    score: float


@dataclass(frozen=True)
class MatchContent(PageContent):
    """What a report shows beside the content of every page.

    Attributes:
        evaluations: what the run says of labelled pairs, by the name of their part ("validation",
            "test"); the first is shown in detail.
        retrieval: figures of `retrieval_metrics` by the name of their part.
        metric: of the training curve; None: the default of the pairs' kind.
        errors: the worst, from `worst_pairs`.
    """

    evaluations: Mapping[str, ScoredPairs] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    metric: str | None = None
    errors: Sequence[WrongPair] = ()


def worst_pairs(scored: ScoredPairs, examples: PairExamples, count: int = WORST) -> list[WrongPair]:
    """Return the pairs that are furthest from the truth, the worst first.

    binary: those on the wrong side of the threshold of the accuracy, by their distance from it.
    score: by how far the place in the order of scores is from that in the order of true scores.
    class: wrong decisions by -log p(true), the scores being logits.

    Args:
        scored: what a run says of the pairs.
        examples: the pairs, in the same order.
        count: how many at most.

    Raises:
        ShapeError: there are not as many pairs as scores.
    """
    if len(scored) != len(examples):
        raise ShapeError(f"{len(scored)} scores, but {len(examples)} pairs.")
    badness_N, true, predicted, shown_N = _badness(scored)
    worst = np.argsort(-badness_N, kind="stable")[:count]
    return [
        WrongPair(
            row=int(examples.rows[place]),
            first=examples.firsts[place],
            second=examples.seconds[place],
            true=true(int(place)),
            predicted=predicted(int(place)),
            score=float(shown_N[place]),
        )
        for place in worst
        if badness_N[place] > 0
    ]


def match_report_html(content: MatchContent) -> str:
    """Return the report as one HTML page: styles and charts inside, nothing loaded, no script.

    Whatever comes from the data (texts, labels, settings) is escaped.
    """
    main = next(iter(content.evaluations.values()), None)
    kind = main.kind if main else "none"
    is_drawn = kind in ("binary", "score")
    return render_report(
        TEMPLATE,
        content,
        [
            PartFigures(name, len(pairs), _figures(pairs), _intervals(pairs))
            for name, pairs in content.evaluations.items()
        ],
        unit="pairs",
        metrics=METRICS_OF[kind],
        headline=[name for name in METRICS_OF[kind] if name not in ("precision", "recall")],
        metric=content.metric or DEFAULT_METRIC[kind],
        shows_parts=len(content.evaluations) > 1 or kind == "binary",
        kind=kind,
        names=main.names if main else (),
        thresholds=_thresholds(content) if kind == "binary" else [],
        depths=list(dict.fromkeys(key for one in content.retrieval.values() for key in one)),
        scores_svg=score_chart(main) if main and is_drawn else "",
        threshold_svg=threshold_chart(main) if main and kind == "binary" else "",
        no_row=NO_ROW,
    )


def _badness(scored: ScoredPairs) -> tuple[np.ndarray, Any, Any, np.ndarray]:
    """Return how bad each pair is (0: not), its label and prediction in words, and its score."""
    targets, scores = scored.targets, scored.scores.astype(np.float64)
    if scored.kind == "binary":
        threshold = scored.thresholds["accuracy"]
        called = scores >= threshold
        # A wrong pair right on the threshold is not quite as good as a right one.
        distance = np.maximum(np.abs(scores - threshold), np.finfo(np.float64).tiny)
        words = ("different", "same")
        return (
            np.where(called != (targets == 1), distance, 0.0),
            lambda place: words[int(targets[place])],
            lambda place: words[int(called[place])],
            scores,
        )
    if scored.kind == "score":
        true_N, found_N = rankdata(targets), rankdata(scores)
        share = 100 / max(len(targets), 1)
        return (
            np.abs(true_N - found_N),
            lambda place: f"{targets[place]:.4g}, above {share * (true_N[place] - 0.5):.0f}%",
            lambda place: f"{scores[place]:.4g}, above {share * (found_N[place] - 0.5):.0f}%",
            scores,
        )
    decisions = scores.argmax(axis=1)
    of_true = log_softmax(scores, axis=1)[np.arange(len(targets)), targets]
    names = scored.names or tuple(str(number) for number in range(scores.shape[1]))
    return (
        np.where(decisions != targets, -of_true, 0.0),
        lambda place: names[int(targets[place])],
        lambda place: names[int(decisions[place])],
        of_true,
    )


def _figures(pairs: ScoredPairs) -> dict[str, float]:
    threshold = pairs.thresholds if pairs.kind == "binary" else None
    return similarity_metrics(pairs.scores, pairs.targets, pairs.kind, threshold)


def _intervals(pairs: ScoredPairs) -> dict[str, Interval]:
    return {metric: similarity_interval(metric, pairs) for metric in RESAMPLED[pairs.kind]}


def _thresholds(content: MatchContent) -> list[dict[str, Any]]:
    """Return for each part and metric what the threshold in use gives, and what the best would."""
    rows = []
    for name, pairs in content.evaluations.items():
        used, best = pairs.thresholds, best_thresholds(pairs.scores, pairs.targets)
        at = {
            "used": similarity_metrics(pairs.scores, pairs.targets, "binary", used),
            "best": similarity_metrics(pairs.scores, pairs.targets, "binary", best),
        }
        rows += [
            {
                "part": name,
                "metric": metric_name(metric),
                "used": used[metric],
                "value": at["used"][metric],
                "best": best[metric],
                "best_value": at["best"][metric],
            }
            for metric in ("accuracy", "f1")
        ]
    return rows
