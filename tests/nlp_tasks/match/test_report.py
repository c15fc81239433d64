"""The report of a matching: complete, escaped, alone in one file."""

import functools
import re
from typing import Any

import numpy as np
import pytest

from idbert.errors import ShapeError
from nlp_tasks.charts import curve_chart, metric_name
from nlp_tasks.match.charts import score_chart
from nlp_tasks.match.metrics import METRICS_OF, similarity_metrics
from nlp_tasks.match.pairs import NO_ROW, PairExamples
from nlp_tasks.match.report import MatchContent, match_report_html, worst_pairs
from nlp_tasks.match.resampling import ScoredPairs
from nlp_tasks.reports import MOST_CHARACTERS
from tests.pages import check_page

HOSTILE = "<script>alert('$x_1$')</script> & \"无间道\""
ESCAPED = "&lt;script&gt;alert(&#39;$x_1$&#39;)&lt;/script&gt; &amp; &#34;无间道&#34;"
CURVE = [
    {"epoch": 0.5, "step": 10, "loss": 5.0},
    {"epoch": 1.0, "auc": 0.8, "spearman": 0.3, "accuracy": 0.4},
    {"epoch": 2.0, "auc": 0.7, "spearman": 0.2, "accuracy": 0.5},
]
KINDS = ["binary", "score", "class"]


def scored_of(kind: Any, size: int = 40) -> ScoredPairs:
    rng = np.random.default_rng(5)
    if kind == "class":
        names = (HOSTILE, "neutral", "against")
        return ScoredPairs(rng.normal(size=(size, 3)), np.arange(size) % 3, "class", names=names)
    targets = np.arange(size) % 2 if kind == "binary" else rng.random(size).astype(np.float32)
    threshold = {"accuracy": 0.4, "f1": 0.3} if kind == "binary" else None
    return ScoredPairs(rng.random(size) + 0.2 * targets, targets, kind, threshold)


def examples_of(scored: ScoredPairs) -> PairExamples:
    return PairExamples(
        firsts=[f"{HOSTILE} {row}" for row in range(len(scored))],
        seconds=[f"second {row}" for row in range(len(scored))],
        targets=scored.targets,
        kind=scored.kind,
        rows=np.arange(len(scored)) + 100,
    )


def drawn_page_of(kind: Any) -> str:
    scored = scored_of(kind)
    content: dict[str, Any] = {
        "title": HOSTILE,
        "evaluations": {HOSTILE: scored, "test": scored},
        "retrieval": {HOSTILE: {"mrr": 0.123, "recall@10": 0.5}},
        "curve": CURVE,
        "errors": worst_pairs(scored, examples_of(scored)),
        "settings": {"tower": {"pooling": "mean", "options": {}}, "data": HOSTILE},
        "facts": {HOSTILE: HOSTILE},
        "layer_weights": {HOSTILE: 0.25, "layer 1": 0.75},
    }
    return match_report_html(MatchContent(**content))


page_of = functools.cache(drawn_page_of)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_well_formed_escaped_and_loads_nothing(kind: str):
    page = page_of(kind)
    check_page(page, charts={"binary": 3, "score": 2, "class": 1}[kind])
    assert page.count(ESCAPED) > 12


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_stands_in_the_page_with_its_interval(kind: Any):
    page, scored = page_of(kind), scored_of(kind)
    figures = similarity_metrics(scored.scores, scored.targets, kind, scored.threshold)
    for metric in METRICS_OF[kind]:
        assert metric_name(metric) in page and f"{figures[metric]:.4f}" in page
    assert re.search(r"<small>-?0\.\d{4} to \d\.\d{4}</small>", page)
    assert "figures of 40 pairs of the part" in page and "<td>0.1230</td>" in page


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("binary", ["Parts", "Search", "Training", "Scores by label", "Threshold", "Worst pairs"]),
        ("score", ["Parts", "Search", "Training", "Scores by label", "Worst pairs"]),
        ("class", ["Parts", "Search", "Training", "Worst pairs"]),
    ],
)
def test_the_parts_are_those_of_the_kind(kind: str, parts: list[str]):
    assert re.findall("<h2>(.*)</h2>", page_of(kind)) == [*parts, "Layer weights", "Settings"]


def test_a_run_without_labels_shows_how_well_it_searches():
    content = MatchContent("A run", retrieval={"dev": {"mrr": 0.25}}, curve=CURVE[:1])
    page = match_report_html(content)
    assert re.findall("<h2>(.*)</h2>", page) == ["Search", "Training"]
    assert "<dt>MRR</dt><dd>0.2500</dd>" in page and "MRR of the validation part" in page


def test_parts_without_content_are_left_out():
    page = match_report_html(MatchContent("A run"))
    assert "<h2>" not in page and "<table" not in page


def test_the_threshold_in_use_stands_beside_the_best():
    scored = ScoredPairs(np.array([0.9, 0.7, 0.3, 0.1]), np.array([1, 1, 0, 0]), "binary", 0.8)
    page = match_report_html(MatchContent("A run", {"test": scored}))
    row = re.findall(r"<tr><th>test</th><td>Accuracy</td>(.*)</tr>", page)
    assert re.findall(r"<td>([\d.]+)</td>", row[0]) == ["0.8000", "0.7500", "0.5000", "1.0000"]


def test_the_same_content_gives_the_same_page():
    assert page_of("binary") == drawn_page_of("binary")


# errors in words ------------------------------------------------------------------------------


def test_the_worst_pair_is_furthest_beyond_the_threshold():
    scored = ScoredPairs(
        np.array([0.9, 0.55, 0.2, 0.4, 0.8]), np.array([0, 0, 1, 1, 1]), "binary", 0.5
    )
    worst = worst_pairs(scored, examples_of(scored))
    assert [(one.row, one.true, one.predicted, one.score) for one in worst] == [
        (100, "different", "same", 0.9),
        (102, "same", "different", 0.2),
        (103, "same", "different", 0.4),
        (101, "different", "same", 0.55),
    ]
    assert (worst[0].first, worst[0].second) == (f"{HOSTILE} 0", "second 0")
    assert len(worst_pairs(scored, examples_of(scored), 2)) == 2


def test_the_worst_score_is_furthest_from_its_place():
    scored = ScoredPairs(np.array([0.1, 0.9, 0.3, 0.2]), np.float32([0, 1, 2, 5]), "score")
    worst = worst_pairs(scored, examples_of(scored))
    assert [one.row for one in worst] == [101, 103]
    assert (worst[1].true, worst[1].predicted) == ("5, above 88%", "0.2, above 38%")


def test_the_worst_class_is_where_the_truth_was_least_likely():
    logits = np.array([[2.0, 0, 0], [0, 5, 0], [1, 0, 0]])
    scored = ScoredPairs(logits, np.array([0, 0, 1]), "class", names=("a", "b", "c"))
    worst = worst_pairs(scored, examples_of(scored))
    assert [(one.row, one.true, one.predicted) for one in worst] == [
        (101, "a", "b"),
        (102, "b", "a"),
    ]


def test_a_pair_that_stands_in_no_file_has_no_row_and_a_long_one_is_cut():
    scored = ScoredPairs(np.array([0.9, 0.1]), np.array([0, 1]), "binary", 0.5)
    long = "x" * (MOST_CHARACTERS + 1)
    examples = PairExamples(
        firsts=[long, "a"],
        seconds=["b", "c"],
        targets=scored.targets,
        kind="binary",
        rows=np.array([NO_ROW, 6]),
    )
    page = match_report_html(MatchContent("A", errors=worst_pairs(scored, examples)))
    assert re.findall(r'class="row">row (\d+)<', page) == ["7"]
    assert "x" * (MOST_CHARACTERS - 1) + "…" in page and long not in page
    with pytest.raises(ShapeError, match="2 scores, but 1 pairs"):
        worst_pairs(scored, examples.take([0]))


# charts ---------------------------------------------------------------------------------------


def test_the_curve_names_the_best_epoch():
    assert "AUC, best 0.8000 at epoch 1" in curve_chart(CURVE, "auc")
    curve = [{"epoch": 1.0, "validation_loss": 0.7}, {"epoch": 2.0, "validation_loss": 0.9}]
    assert "Loss, best 0.7000 at epoch 1" in curve_chart(curve, "loss")
    assert "not recorded" in curve_chart(CURVE[:1], "auc")


def test_of_very_many_pairs_not_all_are_drawn():
    numbers = np.arange(9000, dtype=np.float32)
    assert score_chart(ScoredPairs(numbers, numbers, "score")).count("<use") < 2100


def test_the_scores_of_each_label_are_counted():
    chart = score_chart(scored_of("binary"))
    assert "label 0: 20 pairs" in chart and "label 1: 20 pairs" in chart


def test_a_metric_without_a_name_of_its_own_is_written_plainly():
    assert metric_name("recall@10") == "Recall@10" and metric_name("my_metric") == "My metric"
