"""The index ranks as exact search does, keeps ids, and is opened only when whole."""

import json
import threading
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
import torch

from idbert.errors import CheckpointError, ConfigError, DataError, IdbertError, ShapeError
from idbert.retrieval import index as index_module
from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.vectors import coded_cells

MODEL = "a" * 64
CODED = coded_cells(8, 9)


def vectors(count: int, width: int = 9, seed: int = 0) -> np.ndarray:
    """Vectors whose last component, the bias, differs much: the hard case for graphs."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((count, width)) * np.exp(0.3 * rng.standard_normal((count, 1)))
    return made.astype(np.float32)


def ids(count: int) -> pa.Array:
    return pa.array([f"{row:03d}" for row in range(count)])


def built(factory: str = "Flat", count: int = 300) -> VectorIndex:
    return VectorIndex.build(vectors(count), ids(count), factory=factory)


def recall(found_QK: np.ndarray, right_QK: np.ndarray) -> float:
    hits = [np.isin(found, right).mean() for found, right in zip(found_QK, right_QK, strict=True)]
    return float(np.mean(hits))


def excluded_lists(queries: int, count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    offsets = np.append(0, rng.integers(0, 20, queries).cumsum()).astype(np.int64)
    return rng.integers(0, count, offsets[-1]), offsets


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("Flat", 1.0),
        ("SQfp16", 0.99),
        ("HNSW16", 0.99),
        ("HNSW16,SQ8", 0.95),
        ("HNSW16,SQfp16", 0.99),
        ("NSG16", 0.8),
        ("IVF8,Flat", 0.25),
        ("PCA8,IVF8,Flat", 0.25),
        ("Pad12,PQ12x4fs,RFlat", 0.8),
        (CODED, 0.25),
    ],
)
def test_every_kind_of_index_finds_what_exact_search_finds(factory: str, least: float) -> None:
    queries = vectors(50, seed=2)
    right_scores, right_rows = ExactIndex(torch.from_numpy(vectors(300))).search(queries, 10)
    scores, rows = built(factory).search(queries, 10)
    assert recall(rows, right_rows) >= least
    if least == 1.0:
        np.testing.assert_array_equal(rows, right_rows)
        np.testing.assert_allclose(scores, right_scores, rtol=1e-5)


def test_more_cells_candidates_and_refinement_find_more() -> None:
    queries = vectors(50, seed=2)
    right_rows = built().search(queries, 10)[1]
    for factory, name, low, high in [
        ("IVF16,Flat", "nprobe", 1, 16),
        ("HNSW4", "ef_search", 1, 300),
        ("HNSW4,SQfp16", "ef_search", 1, 300),
        ("Pad12,PQ12x4fs,RFlat", "refine_factor", 1, 30),
        (CODED, "nprobe", 1, 8),
    ]:
        index = built(factory)
        few, many = (
            recall(index.search(queries, 10, SearchSettings(**{name: value}))[1], right_rows)
            for value in (low, high)
        )
        assert few < many
        assert many >= 0.99


def test_short_vectors_are_reached_in_a_graph_too() -> None:
    rng = np.random.default_rng(0)
    many = rng.standard_normal((5000, 16)).astype(np.float32)
    many[:, -1] = 3 * rng.standard_normal(5000)  # a bias that outweighs everything
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    queries[:, -1] = 1
    right_rows = ExactIndex(torch.from_numpy(many)).search(queries, 10)[1]
    rows = VectorIndex.build(many, ids(5000), factory="HNSW32").search(queries, 10)[1]
    assert recall(rows, right_rows) > 0.98


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "HNSW16,SQfp16", "IVF8,Flat", CODED])
def test_excluded_and_not_allowed_rows_never_come(factory: str) -> None:
    queries, allowed = vectors(50, seed=2), np.arange(300) % 3 > 0
    excluded, offsets = excluded_lists(50, 300)
    scores, rows = built(factory).search(
        queries, 10, allowed_N=allowed, excluded=(excluded, offsets)
    )
    for query in range(50):
        found = rows[query][rows[query] >= 0]
        assert allowed[found].all()
        assert not np.isin(found, excluded[offsets[query] : offsets[query + 1]]).any()
        assert len(set(found)) == len(found)
        assert (scores[query][:-1] >= scores[query][1:]).all()


def test_rows_that_are_excluded_twice_are_asked_for_once(monkeypatch) -> None:
    index, fetched = built(), []
    search = index._search
    monkeypatch.setattr(index, "_search", lambda q, k, *a: fetched.append(k) or search(q, k, *a))
    twice = np.array([3, 5, 3, 3, 5, 7]), np.array([0, 5, 6])
    index.search(vectors(2), 4, excluded=twice)
    assert fetched == [4 + 2]
    index._most_fetched = 5  # as on a GPU
    index.search(vectors(2), 4, excluded=twice)
    assert fetched[1:] == [5]
    with pytest.raises(ConfigError, match="k is 6; on a GPU FAISS finds at most 5 rows"):
        index.search(vectors(2), 6)


def test_a_query_that_needs_many_rows_does_not_let_others_fetch_as_many(monkeypatch) -> None:
    index, queries = built(count=300), vectors(9, seed=2)
    heavy = np.arange(200)
    offsets = np.array([0, *[0] * 4, 200, *[200] * 4])  # the fifth query leaves 200 rows out
    expected = index.search(queries, 5, excluded=(heavy, offsets))
    monkeypatch.setattr(index_module, "_ROWS_AT_ONCE", 60)
    fetched, search = [], VectorIndex._search

    def watched(self, queries_QD, k, *more):
        fetched.append((len(queries_QD), k))
        return search(self, queries_QD, k, *more)

    monkeypatch.setattr(VectorIndex, "_search", watched)
    found = index.search(queries, 5, excluded=(heavy, offsets))
    assert fetched == [(8, 5), (1, 205)]
    np.testing.assert_array_equal(found[1], expected[1])
    assert not np.isin(found[1][4], heavy).any()


def test_searches_wait_for_each_other_where_the_index_serves_one_at_a_time() -> None:
    index = built()
    lock = index._alone = threading.Lock()
    assert lock.acquire()
    found: list[np.ndarray] = []
    waiting = threading.Thread(target=lambda: found.append(index.search(vectors(1), 3)[1]))
    waiting.start()
    waiting.join(0.1)
    assert not found
    lock.release()
    waiting.join(30)
    assert len(found) == 1 and not lock.locked()


def test_filters_change_nothing_but_what_they_forbid() -> None:
    queries, allowed = vectors(50, seed=2), np.arange(300) % 3 > 0
    filters = {"allowed_N": allowed, "excluded": excluded_lists(50, 300)}
    scores, rows = built().search(queries, 10, **filters)
    right_scores, right_rows = ExactIndex(torch.from_numpy(vectors(300))).search(
        queries, 10, **filters
    )
    np.testing.assert_array_equal(rows, right_rows)
    np.testing.assert_allclose(scores, right_scores, rtol=1e-5)


def test_where_too_few_rows_are_left_the_rest_is_marked() -> None:
    index = built(count=5)
    scores, rows = index.search(vectors(1), 99, excluded=(np.array([0, 1, 1]), np.array([0, 3])))
    assert rows.shape == (1, 5)
    assert set(rows[0, :3]) == {2, 3, 4}
    assert rows[0, 3:].tolist() == [-1, -1]
    assert np.isneginf(scores[0, 3:]).all()


@pytest.mark.parametrize("some_ids", [["007", "7", '标题, "x"\n'], [2**53 + 1, -1, 0]])
def test_an_index_comes_back_from_disk_with_its_ids(tmp_path: Path, some_ids: list) -> None:
    index = VectorIndex.build(vectors(3), pa.array(some_ids), factory="HNSW4")
    index.save(tmp_path / "index", MODEL)
    loaded = VectorIndex.load(tmp_path / "index", MODEL)
    assert loaded.ids.to_pylist() == some_ids
    assert (loaded.factory, loaded.dimension, len(loaded)) == ("HNSW4", 9, 3)
    for before, after in zip(
        index.search(vectors(2), 3), loaded.search(vectors(2), 3), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    built().save(tmp_path / "index", MODEL)
    with pytest.raises(CheckpointError, match="is the index of another model.*Build it again"):
        VectorIndex.load(tmp_path / "index", "b" * 64)
    assert len(VectorIndex.load(tmp_path / "index")) == 300


def test_a_missing_or_half_copied_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no index \(no manifest\.json\). Build one"):
        VectorIndex.load(tmp_path / "nothing")
    folder = tmp_path / "index"
    built().save(folder, MODEL)
    whole = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(whole[:-7])
    with pytest.raises(CheckpointError, match=r"index\.faiss has \d+ bytes instead of \d+"):
        VectorIndex.load(folder)
    (folder / "index.faiss").write_bytes(whole[:-7] + b"garbage")
    with pytest.raises(CheckpointError, match=r"index\.faiss is damaged: its SHA-256 is another"):
        VectorIndex.load(folder)


def test_nothing_is_given_to_faiss_before_its_digest_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built().save(tmp_path / "index", MODEL)
    (tmp_path / "index" / "index.faiss").write_bytes(b"crafted")
    monkeypatch.setattr(faiss, "read_index", lambda path: pytest.fail("FAISS has read the file"))
    with pytest.raises(CheckpointError, match="has 7 bytes instead of"):
        VectorIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "IndexHNSWFlat"}, "does not hold what its manifest.json says: found IndexFlat"),
        ({"dimension": 8}, "found IndexFlat.* of 300 vectors and 300 ids with 9 components"),
        ({"count": 299}, "of 300 vectors and 300 ids"),
        ({"format": 9}, "is not of format 1"),
    ],
)
def test_an_index_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, change: dict, words: str
) -> None:
    built().save(tmp_path / "index", MODEL)
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        VectorIndex.load(tmp_path / "index")


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    built().save(tmp_path / "index", MODEL)
    (tmp_path / "index" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json is not JSON"):
        VectorIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("Flatt", "'Flatt' is not a FAISS factory string. Some that are: Flat"),
        (
            "IVF999,Flat",
            "needs at least 999 vectors to train on, there are 300. Choose fewer cells",
        ),
        ("PQ3x10", "needs at least 1024 vectors to train on, there are 300"),
        ("PQ4", "cannot be built of 300 vectors of 9 components .*: The dimension of the vector"),
        ("IDMap2,Flat", "cannot be built of 300 vectors"),
        ("HNSW8,PQ2x4", "cannot rank by inner product. Choose another"),
        ("LSH", "cannot be built of 300 vectors"),
    ],
)
def test_a_factory_that_cannot_be_built_says_why(factory: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        built(factory)


def test_vectors_that_cannot_be_indexed_are_refused() -> None:
    with pytest.raises(ShapeError, match="3 vectors and 2 ids: each needs the other"):
        VectorIndex.build(vectors(3), ids(2))
    with pytest.raises(DataError, match="there are no vectors to build an index of"):
        VectorIndex.build(vectors(0), ids(0))
    diverged = vectors(3)
    diverged[1, 0] = np.nan
    with pytest.raises(DataError, match="1 of 3 vectors hold NaN or infinity, those of 001"):
        VectorIndex.build(diverged, ids(3))


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        ("Flat", SearchSettings(ef_search=8)),
        ("HNSW4", SearchSettings(nprobe=8)),
        ("IVF8,Flat", SearchSettings(refine_factor=8)),
    ],
)
def test_a_setting_that_cannot_act_is_refused(factory: str, settings: SearchSettings) -> None:
    with pytest.raises(ConfigError, match=f"cannot act on an index '{factory}'. Leave it out"):
        built(factory).search(vectors(1), 1, settings)


def test_an_index_that_cannot_filter_says_so() -> None:
    with pytest.raises(ConfigError, match="an index 'NSG16' cannot leave items out while it"):
        built("NSG16").search(vectors(1), 1, allowed_N=np.ones(300, bool))


def test_queries_and_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ShapeError, match="the queries have 8 components, the index's vectors 9"):
        built().search(vectors(1, width=8), 1)
    with pytest.raises(ConfigError, match="k is 0; it must be at least 1"):
        built().search(vectors(1), 0)
    with pytest.raises(ConfigError, match="nprobe is 0; it must be at least 1"):
        SearchSettings(nprobe=0)


def test_a_full_disk_leaves_no_half_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(index: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError(f"write error in {path}: 989 != 3000 (No space left on device)")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(IdbertError, match="no room on the disk of .* to write index. Free some"):
        built().save(tmp_path / "index", MODEL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "factory", ["Flat", "SQfp16", "HNSW16", "HNSW16,SQfp16", "PCA8,Flat", "SQ8", CODED]
)
def test_an_index_gives_its_vectors_back_as_exactly_as_it_keeps_them(factory: str) -> None:
    found = built(factory).vectors()
    assert found.shape == vectors(300).shape
    tolerance = {"Flat": 0, "HNSW16": 0, "PCA8,Flat": 5}.get(factory, 0.05)
    np.testing.assert_allclose(found, vectors(300), atol=tolerance)


def test_an_index_that_cannot_give_its_vectors_back_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot give its vectors back. Choose another"):
        built("ITQ,RaBitQ").vectors()


def test_fewer_bits_take_fewer_bytes() -> None:
    sizes = [built(factory).num_bytes for factory in ("Flat", "SQfp16", "SQ8")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] >= 300 * 9 * 4
