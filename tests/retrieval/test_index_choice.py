"""The index that is chosen finds what it says, and says what it finds."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from idbert.errors import ConfigError
from idbert.retrieval import index_choice
from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_choice import ChoiceSettings, candidates, choose_index
from idbert.retrieval.index_recall import recall_of_each
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.vectors import coded_cells

COUNT, WIDTH = 4000, 24
SETTINGS = ChoiceSettings(target_recall=0.9, exact_below=1000, queries=200)


def clustered(count: int, seed: int) -> np.ndarray:
    """Vectors round the same 40 centres whatever the seed, a bias behind them."""
    centres = np.random.default_rng(0).standard_normal((40, WIDTH))
    rng = np.random.default_rng(seed)
    drawn = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, WIDTH))
    drawn[:, -1] *= 0.3
    return drawn.astype(np.float32)


ITEMS, USERS, OTHERS = clustered(COUNT, 1), clustered(300, 2), clustered(300, 3)
IDS = pa.array(np.arange(COUNT))


def recall(
    index: VectorIndex, queries: np.ndarray, settings: SearchSettings | None = None
) -> float:
    right = ExactIndex(torch.from_numpy(ITEMS)).search(queries, 10)[1]
    found = index.search(queries, 10, settings or SearchSettings())[1]
    return float(recall_of_each(found, right).mean())


@pytest.fixture(scope="module", params=["graph", "coded cells", "cells"])
def chosen(request: pytest.FixtureRequest) -> VectorIndex:
    graphs_to, target = {"graph": (10**6, 0.99), "coded cells": (0, 0.9), "cells": (0, 0.9)}[
        request.param
    ]
    settings = dataclasses.replace(SETTINGS, target_recall=target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_choice, "_GRAPHS_TO", graphs_to)
        if request.param == "cells":
            patch.setattr(index_choice, "candidates", lambda *shape: ["IVF64,SQfp16"])
        return choose_index(ITEMS, IDS, settings, queries_QD=USERS)


def test_the_chosen_index_finds_as_much_as_was_wanted_of_other_users_too(
    chosen: VectorIndex,
) -> None:
    curve = chosen.recall
    assert curve is not None and curve.reached
    point = curve.points[curve.chosen]
    assert point.factory == chosen.factory and point.search == chosen.defaults
    assert curve.target <= point.recall_low <= point.recall <= 1
    assert recall(chosen, OTHERS) >= point.recall_low
    drawn = index_choice._sample(USERS, SETTINGS)  # and of the same ones as much as it says
    assert recall(chosen, drawn) == pytest.approx(point.recall)


def test_the_least_thorough_search_that_finds_enough_is_chosen(chosen: VectorIndex) -> None:
    curve = chosen.recall
    name = next(n for n in ("nprobe", "ef_search") if getattr(chosen.defaults, n) is not None)
    value = getattr(chosen.defaults, name)
    same = [point for point in curve.points if point.factory == chosen.factory]
    less = [point for point in same if getattr(point.search, name) < value]
    assert less and all(point.recall_low < curve.target for point in less)
    assert any(getattr(point.search, name) > value for point in same)  # for the chart


def test_what_was_chosen_and_measured_comes_back_from_disk_with_a_chart(
    chosen: VectorIndex, tmp_path: Path
) -> None:
    chosen.save(tmp_path / "index", "a" * 64)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["search"] == dataclasses.asdict(chosen.defaults)
    chart = (tmp_path / "index" / "recall.svg").read_text()
    assert (
        chart.startswith("<svg") and chosen.factory in chart and "Recall@10 of 200 users" in chart
    )
    for mapped in (False, True):
        loaded = VectorIndex.load(tmp_path / "index", mapped=mapped)
        assert (loaded.defaults, loaded.recall) == (chosen.defaults, chosen.recall)
        for before, after in zip(chosen.search(OTHERS, 10), loaded.search(OTHERS, 10), strict=True):
            np.testing.assert_array_equal(before, after)


def test_a_search_that_says_how_thorough_is_not_as_the_index_says(chosen: VectorIndex) -> None:
    name = next(n for n in ("nprobe", "ef_search") if getattr(chosen.defaults, n) is not None)
    most = {"ef_search": 1000, "nprobe": 10**6}[name]
    few = recall(chosen, OTHERS, SearchSettings(**{name: 1}))
    many = recall(chosen, OTHERS, SearchSettings(**{name: most}))
    assert few < recall(chosen, OTHERS) <= many


def test_few_vectors_are_searched_exactly_and_nothing_is_measured() -> None:
    index = choose_index(ITEMS, IDS, ChoiceSettings(), queries_QD=USERS)
    assert (index.factory, index.recall) == ("Flat", None)


def test_where_no_index_finds_enough_all_is_searched_and_a_warning_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_choice, "candidates", lambda *shape: ["IVF16,SQ4"])
    settings = dataclasses.replace(SETTINGS, target_recall=0.999)
    with caplog.at_level(logging.WARNING):
        index = choose_index(ITEMS, IDS, settings, queries_QD=USERS)
    assert "no index of IVF16,SQ4 reaches a recall@10 of 0.999: all vectors" in caplog.text
    assert index.factory == "Flat" and recall(index, OTHERS) == 1
    assert not index.recall.reached and index.recall.chosen is None and index.recall.points


def test_without_queries_stored_vectors_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_choice, "candidates", lambda *shape: ["IVF16,SQ8"])
    index = choose_index(ITEMS, IDS, SETTINGS)
    assert index.recall.queries_are == "stored vectors" and index.recall.queries == 200


def test_the_candidates_go_by_the_number_of_vectors_and_components() -> None:
    assert candidates(500, 64) == ["HNSW32"]
    cells = ["RR65,IVF1024,PQ65x4fs,Refine(SQfp16)", "IVF1024,SQfp16"]
    assert candidates(100_000, 64) == ["HNSW32", *cells]
    cells = ["RR33,IVF4096,PQ33x4fs,Refine(SQfp16)", "IVF4096,SQfp16"]
    assert candidates(1_000_000, 32) == [*cells, "HNSW32"]


def test_of_coded_cells_no_more_candidates_are_ranked_again_than_needed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_choice, "candidates", lambda *shape: [coded_cells(64, WIDTH)])
        index = choose_index(ITEMS, IDS, SETTINGS, queries_QD=USERS)
    curve, search = index.recall, index.defaults
    assert search.nprobe is not None and search.refine_factor in (3, 4, 8)
    fewer = [
        point
        for point in curve.points
        if point.search.nprobe == search.nprobe
        and point.search.refine_factor < search.refine_factor
    ]
    assert all(point.recall_low < curve.target for point in fewer)
    assert search.refine_factor == 3 or fewer


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_recall": 0.0}, "target_recall is 0.0; it must be above 0 and at most 1"),
        ({"target_recall": 1.1}, "For exactly 1 choose factory Flat"),
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"queries": 0}, "queries is 0; it must be at least 1"),
        ({"exact_below": 0}, "exact_below is 0; it must be at least 1"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ChoiceSettings(**settings)


def test_every_setting_of_the_choice_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_choice, "candidates", lambda *shape: ["IVF64,SQfp16"])
    usual = choose_index(ITEMS, IDS, SETTINGS, queries_QD=USERS).recall
    for change in ({"target_recall": 0.99}, {"k": 3}, {"queries": 50}, {"seed": 1}):
        other = choose_index(
            ITEMS, IDS, dataclasses.replace(SETTINGS, **change), queries_QD=USERS
        ).recall
        shown = [[(point.search, point.recall) for point in each.points] for each in (usual, other)]
        assert shown[0] != shown[1], change
