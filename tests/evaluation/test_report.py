import re

import numpy as np
import pytest
import torch

from idbert.errors import DataError
from idbert.evaluation.charts import curve_chart, interval_chart
from idbert.evaluation.evaluate import Evaluation, evaluate
from idbert.evaluation.report import ReportContent, UserExample, report_html
from tests.pages import check_page

HOSTILE = "<script>alert('$x_1$')</script> & \"无间道\""
HOSTILE_NAME = "<script>$x_1$</script>"
CURVE = [
    {"epoch": 0.5, "step": 10, "loss": 5.0},
    {"epoch": 1.0, "ndcg@10": 0.08},
    {"epoch": 1.5, "step": 30, "loss": 4.5},
    {"epoch": 2.0, "ndcg@10": 0.0731},
]


def small_evaluation(seed: int, **settings: str) -> Evaluation:
    scores = torch.rand(20, 12, generator=torch.Generator().manual_seed(seed))
    return evaluate(
        lambda positions: scores[torch.from_numpy(positions)],
        4 + np.arange(20) % 8,
        (np.zeros(0, dtype=np.int32), np.zeros(21, dtype=np.int64)),
        counts_V=np.ones(12, dtype=np.int64),
        resamples=50,
        **{"split": "leave-last-out, test", **settings},
    )


def full_content() -> ReportContent:
    return ReportContent(
        title=HOSTILE,
        evaluations={HOSTILE_NAME: small_evaluation(0), "popularity": small_evaluation(1)},
        curve=CURVE,
        settings={"model": {"norm": "pre", "fusion": {"layers": None}}, "data": HOSTILE},
        facts={"users": "20", HOSTILE: HOSTILE},
        layer_weights={"embeddings": 0.25, "layer 1": 0.75},
        examples=[
            UserExample("7", ["A film"], [("Found film", 1.25), (HOSTILE, 0.5)], "Found film"),
            UserExample(HOSTILE, [HOSTILE], [(HOSTILE, 0.5)]),
        ],
    )


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(full_content())


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    check_page(page, charts=2)


def test_whatever_comes_from_the_data_is_escaped(page: str) -> None:
    assert "<script" not in page
    escaped = "&lt;script&gt;alert(&#39;$x_1$&#39;)&lt;/script&gt; &amp; &#34;无间道&#34;"
    assert page.count(escaped) == 9
    assert page.count("&lt;script&gt;$x_1$&lt;/script&gt;") >= 5


def test_the_page_shows_what_it_was_given(page: str) -> None:
    evaluation = full_content().evaluations["popularity"]
    assert f"{evaluation.metrics['ndcg@10']:.4f}" in page
    low, high = evaluation.intervals["recall@10"]
    assert f"{low:.4f} to {high:.4f}" in page
    assert "full ranking of 8 items; seen items filtered" in page
    assert "<td>model.fusion.layers</td><td>–</td>" in page
    assert "Novelty@10" in page and "Coverage@10" in page
    assert 'width: 33.3%"></i><span>0.250' in page
    assert re.search(r'<li class="hit"><span>1\.25</span>Found film</li>', page)
    assert page.count('class="hit"') == 1 and page.count("Held out:") == 1


def test_layer_weights_may_have_any_sign_and_size() -> None:
    weights = {"layer 0": -2.0, "layer 1": 1.5, "layer 2": 0.0}
    page = report_html(ReportContent("A run", layer_weights=weights))
    assert re.findall(r'width: ([-.\d]+)%"></i><span>([-.\d]+)', page) == [
        ("100.0", "-2.000"),
        ("75.0", "1.500"),
        ("0.0", "0.000"),
    ]
    assert 'width: 0.0%"></i><span>0.000' in report_html(
        ReportContent("A run", layer_weights={"layer 0": 0.0})
    )


def test_the_same_content_gives_the_same_page(page: str) -> None:
    assert report_html(full_content()) == page


def test_parts_without_content_are_left_out() -> None:
    text = report_html(ReportContent("A run", curve=CURVE))
    assert re.findall("<h2>(.*)</h2>", text) == ["Training"]
    assert "<table" not in text


def test_the_curve_names_the_best_epoch() -> None:
    chart = curve_chart(CURVE, "ndcg@10", "Validation NDCG@10")
    assert "Validation NDCG@10, best 0.0800 at epoch 1" in chart


def test_a_curve_without_validation_says_so() -> None:
    assert "not recorded" in curve_chart(CURVE[:1], "ndcg@10", "Validation NDCG@10")


def test_every_model_stands_in_the_interval_chart() -> None:
    svg = interval_chart({"one": small_evaluation(0), "$x_1$": small_evaluation(1)})
    assert svg.startswith("<svg") and ">one<" in svg and ">$x_1$<" in svg


def test_evaluations_of_different_protocols_get_no_common_report() -> None:
    evaluations = {"a": small_evaluation(0), "b": small_evaluation(0, split="another")}
    with pytest.raises(DataError, match="cannot be compared"):
        report_html(ReportContent("A run", evaluations))
