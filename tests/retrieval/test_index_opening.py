"""An index may stay on disk, and may be searched on a GPU; what it keeps changes no score."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from idbert.errors import CheckpointError, ConfigError, MissingExtraError
from idbert.retrieval import index as index_module
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_device import on_device
from idbert.retrieval.vectors import stored_form, stored_width


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 9)).astype(np.float32)


def saved(folder: Path, factory: str) -> VectorIndex:
    index = VectorIndex.build(vectors(300), pa.array(np.arange(300)), factory=factory)
    index.save(folder, "a" * 64)
    return index


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "HNSW8", "HNSW8,SQ8", "IVF4,Flat", "IVF4,SQ8"])
def test_a_mapped_index_answers_as_the_one_that_was_saved(tmp_path: Path, factory: str) -> None:
    index = saved(tmp_path / "index", factory)
    mapped = VectorIndex.load(tmp_path / "index", "a" * 64, mapped=True)
    for before, after in zip(
        index.search(vectors(20, 1), 5), mapped.search(vectors(20, 1), 5), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_mapped_index_may_be_built_again_while_it_is_open(tmp_path: Path) -> None:
    index = saved(tmp_path / "index", "Flat")
    mapped = VectorIndex.load(tmp_path / "index", mapped=True)
    VectorIndex.build(vectors(300, 7), index.ids).save(tmp_path / "index", "b" * 64)
    np.testing.assert_array_equal(
        mapped.search(vectors(9, 1), 5)[1], index.search(vectors(9, 1), 5)[1]
    )


def test_of_a_mapped_file_the_size_is_checked_and_not_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "index", "Flat")
    read: list[str] = []
    right = index_module.verify
    monkeypatch.setattr(
        index_module, "verify", lambda path, digest: (read.append(path.name), right(path, digest))
    )
    VectorIndex.load(tmp_path / "index", mapped=True)
    assert read == ["ids.parquet"]
    path = tmp_path / "index" / "index.faiss"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"index\.faiss has \d+ bytes instead of \d+"):
        VectorIndex.load(tmp_path / "index", mapped=True)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"index\.faiss is missing. Copy it again"):
        VectorIndex.load(tmp_path / "index", mapped=True)


def test_a_faiss_without_a_gpu_part_says_what_to_install(tmp_path: Path) -> None:
    saved(tmp_path / "index", "Flat")
    if hasattr(pytest.importorskip("faiss"), "StandardGpuResources"):
        pytest.skip("this FAISS has a GPU part")
    with pytest.raises(MissingExtraError, match=r"no GPU part.*pip install 'idbert\[gpu\]'"):
        VectorIndex.load(tmp_path / "index", device="cuda")
    with pytest.raises(ConfigError, match="a mapped index stays on disk, and index_device=cuda"):
        VectorIndex.load(tmp_path / "index", device="cuda", mapped=True)


def test_on_a_machine_with_a_gpu_the_index_is_copied_to_the_first() -> None:
    copied = []

    def copy(resources: str, gpu: int, index: str) -> str:
        if index == "graph":
            raise RuntimeError("Error in virtual void f() at file.cpp:1: not supported on GPU")
        copied.append((resources, gpu, index))
        return "there"

    faiss = ModuleType("faiss")
    faiss.StandardGpuResources = lambda: "resources"
    faiss.get_num_gpus = lambda: 1
    faiss.index_cpu_to_gpu = copy
    assert on_device(faiss, "here", "cpu", "Flat") == "here" and copied == []
    assert on_device(faiss, "here", "cuda", "Flat") == "there"
    assert copied == [("resources", 0, "here")]
    with pytest.raises(ConfigError, match="'HNSW32' cannot be searched on a GPU: not supported on"):
        on_device(faiss, "graph", "cuda", "HNSW32")
    faiss.get_num_gpus = lambda: 0
    with pytest.raises(ConfigError, match="needs a GPU, and FAISS finds none"):
        on_device(faiss, "here", "cuda", "Flat")
    with pytest.raises(ConfigError, match="index_device is 'tpu'; it must be cpu or cuda"):
        on_device.__wrapped__(faiss, "here", "tpu", "Flat")


@pytest.mark.parametrize(
    ("factory", "width"),
    [("Flat", 9), ("HNSW32", 10), ("SQ8", 16), ("HNSW32,SQ8", 16), ("IVF4,SQfp16", 16)]
    + [("IVF4,Flat", 10), ("IVF4,PQ3", 9), ("PCA8,IVF4,Flat", 9), ("RaBitQ,Refine(SQ8)", 16)],
)
def test_what_is_stored_has_the_same_inner_products_with_queries(factory: str, width: int) -> None:
    stored, queries = stored_form(vectors(50), factory), vectors(5, 1)
    assert stored.shape[1] == stored_width(factory, 9) == width
    filled = np.pad(queries, ((0, 0), (0, width - 9)))
    np.testing.assert_allclose(filled @ stored.T, queries @ vectors(50).T, rtol=1e-4, atol=1e-5)


def test_cells_of_completed_vectors_find_more() -> None:
    rng = np.random.default_rng(0)
    many = rng.standard_normal((4000, 15)).astype(np.float32)
    many *= np.exp(0.4 * rng.standard_normal((4000, 1))).astype(np.float32)
    queries, ids = rng.standard_normal((100, 15)).astype(np.float32), pa.array(np.arange(4000))
    right = VectorIndex.build(many, ids).search(queries, 10)[1]
    found = []
    for factory in ("IVF64,Flat", "Pad15,IVF64,Flat"):  # the second is stored as it is
        index = VectorIndex.build(many, ids, factory=factory)
        rows = index.search(queries, 10)[1]
        found.append(np.mean([np.isin(a, b).mean() for a, b in zip(rows, right, strict=True)]))
    assert found[0] > found[1] + 0.05
