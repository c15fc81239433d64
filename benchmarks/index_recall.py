"""How many of the exact ten best items do approximate indexes find, and how fast?

    python -m benchmarks.index_recall --vectors 100000 --dimension 65

The vectors are drawn to look like those of a trained recommender: in clusters, with a spectrum that
falls like that of item embeddings trained on ml-1m, norms that differ by a sixth, and an item bias
as the last component. Users stand near the clusters. A larger --bias is harder for every index.
"""

import argparse
import time

import numpy as np
import pyarrow as pa
import torch

from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_settings import SearchSettings

K = 10


def trials(num_vectors: int) -> list[tuple[str, list[SearchSettings]]]:
    """Return factory strings and the searches to time on each."""
    cells = 2 ** round(np.log2(2 * num_vectors**0.5))
    return [
        ("Flat", [SearchSettings()]),
        ("SQfp16", [SearchSettings()]),
        ("HNSW32", [SearchSettings(ef_search=ef) for ef in (64, 128, 256, 512)]),
        ("HNSW32,SQ8", [SearchSettings(ef_search=256)]),
        (f"IVF{cells},Flat", [SearchSettings(nprobe=cells // share) for share in (32, 16, 8, 4)]),
        (f"IVF{cells},SQ8", [SearchSettings(nprobe=cells // 8)]),
    ]


def draw(
    num_vectors: int, dimension: int, num_queries: int, bias: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of items and of users; the last component is the bias, and 1."""
    rng = np.random.default_rng(seed)
    width = dimension - 1
    scales = (1 + np.arange(width)) ** -0.55
    centres = rng.standard_normal((max(1, num_vectors // 100), width)) * scales

    def around_centres(count: int, norms: np.ndarray) -> np.ndarray:
        chosen = centres[rng.integers(0, len(centres), count)]
        drawn = chosen + rng.standard_normal((count, width)) * scales
        return drawn * norms[:, None] / np.linalg.norm(drawn, axis=1, keepdims=True)

    items = around_centres(num_vectors, 0.6 * np.exp(0.17 * rng.standard_normal(num_vectors)))
    users = around_centres(num_queries, np.full(num_queries, 12.0))
    items = np.column_stack([items, bias * rng.standard_normal(num_vectors)])
    users = np.column_stack([users, np.ones(num_queries)])
    return items.astype(np.float32), users.astype(np.float32)


def recall(found_QK: np.ndarray, exact_QK: np.ndarray) -> float:
    """Return the share of the exact best rows that were found."""
    return float((found_QK[:, :, None] == exact_QK[:, None, :]).any(axis=1).mean())


def main() -> None:
    """Print one line for each index and search."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=int, default=100_000, help="items")
    parser.add_argument("--dimension", type=int, default=65, help="components, the bias included")
    parser.add_argument("--queries", type=int, default=1000, help="users")
    parser.add_argument("--bias", type=float, default=0.1, help="its standard deviation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    items, users = draw(
        options.vectors, options.dimension, options.queries, options.bias, options.seed
    )
    ids = pa.array(np.arange(len(items)))
    exact = ExactIndex(torch.from_numpy(items))
    started = time.perf_counter()
    exact_rows = exact.search(users, K)[1]
    speed = len(users) / (time.perf_counter() - started)

    print(f"{len(items):,} vectors of {options.dimension} components, {len(users):,} queries\n")
    print(f"| {'index':22} | {'search':18} | build s | recall@10 | queries/s |")
    print(f"|{'-' * 24}|{'-' * 20}|--------:|----------:|----------:|")
    print(f"| {'torch':22} | {'':18} | {0:7.1f} | {1:9.3f} | {speed:9,.0f} |")
    for factory, searches in trials(len(items)):
        started = time.perf_counter()
        index = VectorIndex.build(items, ids, factory=factory)
        seconds = time.perf_counter() - started
        for settings in searches:
            chosen = [f"{name} {value}" for name, value in vars(settings).items() if value]
            started = time.perf_counter()
            rows = index.search(users, K, settings)[1]
            speed = len(users) / (time.perf_counter() - started)
            print(
                f"| {factory:22} | {', '.join(chosen):18} | {seconds:7.1f} | "
                f"{recall(rows, exact_rows):9.3f} | {speed:9,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
