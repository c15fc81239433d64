"""Codes of 4 bits tell the best apart, and refined search does what its settings say."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
import torch

from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_recall import recall_of_each
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.vectors import coded_cells, stored_form, stored_width

COUNT, WIDTH, CELLS = 6000, 24, 16
ALL = SearchSettings(nprobe=CELLS, refine_factor=2)


def drawn(count: int, seed: int) -> np.ndarray:
    """Vectors round 40 centres, of norms that differ: the best are the extreme ones."""
    centres = np.random.default_rng(0).standard_normal((40, WIDTH))
    rng = np.random.default_rng(seed)
    made = centres[rng.integers(0, 40, count)] + 0.7 * rng.standard_normal((count, WIDTH))
    return (made * np.exp(0.3 * rng.standard_normal((count, 1)))).astype(np.float32)


ITEMS, USERS = drawn(COUNT, 1), drawn(200, 2)
IDS = pa.array(np.arange(COUNT))
RIGHT = ExactIndex(torch.from_numpy(ITEMS)).search(USERS, 10)[1]


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    return VectorIndex.build(ITEMS, IDS, factory=coded_cells(CELLS, WIDTH))


def recall(index: VectorIndex, settings: SearchSettings) -> float:
    return float(recall_of_each(index.search(USERS, 10, settings)[1], RIGHT).mean())


def test_equal_levels_of_differences_tell_the_best_apart_better_than_faiss_does(
    index: VectorIndex,
) -> None:
    as_faiss = faiss.index_factory(WIDTH + 1, index.factory, faiss.METRIC_INNER_PRODUCT)
    stored = stored_form(ITEMS, index.factory)
    as_faiss.train(stored)
    as_faiss.add(stored)
    by_faiss = VectorIndex(as_faiss, IDS, index.factory, WIDTH)
    assert 1 - recall(index, ALL) < (1 - recall(by_faiss, ALL)) / 2


def test_each_setting_acts_and_more_cells_than_there_are_mean_all(index: VectorIndex) -> None:
    assert recall(index, SearchSettings(nprobe=1, refine_factor=2)) < recall(index, ALL)
    assert recall(index, SearchSettings(nprobe=CELLS, refine_factor=1)) < recall(index, ALL)
    more = SearchSettings(nprobe=1000, refine_factor=2)
    for found, right in zip(
        index.search(USERS, 10, more), index.search(USERS, 10, ALL), strict=True
    ):
        np.testing.assert_array_equal(found, right)


def test_only_allowed_rows_are_found_and_they_are_the_best_of_them(index: VectorIndex) -> None:
    allowed = np.arange(COUNT) % 3 == 0
    right = ExactIndex(torch.from_numpy(ITEMS)).search(USERS, 10, allowed_N=allowed)[1]
    found = index.search(USERS, 10, ALL, allowed_N=allowed)[1]
    assert allowed[found].all()
    assert recall_of_each(found, right).mean() > 0.95


@pytest.mark.parametrize("mapped", [False, True])
def test_it_comes_back_from_disk_as_it_was(
    index: VectorIndex, tmp_path: Path, mapped: bool
) -> None:
    index.save(tmp_path / "index", "a" * 64)
    loaded = VectorIndex.load(tmp_path / "index", mapped=mapped)
    for found, right in zip(
        loaded.search(USERS, 10, ALL), index.search(USERS, 10, ALL), strict=True
    ):
        np.testing.assert_array_equal(found, right)
    np.testing.assert_allclose(loaded.vectors(), ITEMS, atol=0.005)


def test_only_a_rotation_to_one_component_more_completes_the_vectors() -> None:
    assert stored_width(coded_cells(CELLS, WIDTH), WIDTH) == WIDTH + 1
    assert stored_form(ITEMS, coded_cells(CELLS, WIDTH)).shape == (COUNT, WIDTH + 1)
    assert stored_width("RR24,IVF16,PQ24x4fs,RFlat", WIDTH) == WIDTH


def test_a_few_queries_are_scanned_one_by_one_and_find_what_they_find_among_many(
    index: VectorIndex, tmp_path: Path
) -> None:
    index.save(tmp_path / "index", "0" * 64)
    index.search(USERS[:1], 10, ALL)
    index.save(tmp_path / "again", "0" * 64)
    files = [tmp_path / name / "index.faiss" for name in ("index", "again")]
    assert files[0].read_bytes() == files[1].read_bytes(), "a search has changed the index"
    many = SearchSettings(nprobe=CELLS, refine_factor=8)
    for searched in (index, VectorIndex.load(tmp_path / "index")):
        cells = faiss.downcast_index(faiss.extract_index_ivf(searched._index))
        for settings in (ALL, many):
            scores, rows = searched.search(USERS, 10, settings)
            assert cells.implem == 0
            for start in range(0, 20, 2):
                few = searched.search(USERS[start : start + 2], 10, settings)
                assert cells.implem == 10
                np.testing.assert_array_equal(few[1], rows[start : start + 2])
                np.testing.assert_array_equal(few[0], scores[start : start + 2])
