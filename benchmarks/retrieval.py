"""How fast is the index that is chosen, beside exact search, and what does it find?

    python -m benchmarks.retrieval --vectors 1000000 --dimension 64 --plot recall.svg

The vectors are drawn to look like those of a trained recommender: in clusters, with a spectrum that
falls like that of item embeddings trained on ml-1m, norms that differ by a sixth, and an item bias
as the last component. Users stand near the clusters. A larger --bias is harder for every index.

The index is chosen with one half of the users and measured with the other. Exact search is timed
twice, by torch and by FAISS; the ratio is to the faster one. CPU ms are those of this process, and
tell on a busy machine too; queries a second only on a quiet one.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_choice import ChoiceSettings, choose_index
from idbert.retrieval.index_recall import recall_chart, recall_of_each

K = 10
BATCHES = (1, 256)
Search = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Speed:
    """Of searching for many queries, so many at once."""

    queries_per_s: float
    cpu_ms: float


def draw(
    num_vectors: int, dimension: int, num_queries: int, bias: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of items and of users; the last component is the bias, and 1."""
    rng = np.random.default_rng(seed)
    width = dimension - 1
    scales = ((1 + np.arange(width)) ** -0.55).astype(np.float32)
    num_centres = max(1, num_vectors // 100)
    centres = rng.standard_normal((num_centres, width), dtype=np.float32) * scales

    def around_centres(count: int, norms: np.ndarray) -> np.ndarray:
        drawn = rng.standard_normal((count, width), dtype=np.float32) * scales
        drawn += centres[rng.integers(0, len(centres), count)]
        drawn *= (norms / np.linalg.norm(drawn, axis=1)).astype(np.float32)[:, None]
        return drawn

    items = around_centres(num_vectors, 0.6 * np.exp(0.17 * rng.standard_normal(num_vectors)))
    users = around_centres(num_queries, np.full(num_queries, 12.0))
    biases = bias * rng.standard_normal(num_vectors, dtype=np.float32)
    ones = np.ones(num_queries, np.float32)
    return np.column_stack([items, biases]), np.column_stack([users, ones])


def timed(search: Search, queries: np.ndarray, batch: int, seconds: float) -> Speed:
    """Search for all queries again and again, for about so many seconds."""
    search(queries[:batch])
    started, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds or done == 0:
        first = done % len(queries)
        done += len(search(queries[first : first + batch]))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Speed(done / wall, 1000 * cpu / done)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=int, default=1_000_000, help="items")
    parser.add_argument("--dimension", type=int, default=64, help="components, the bias included")
    parser.add_argument("--queries", type=int, default=1024, help="users to choose by; and others")
    parser.add_argument("--bias", type=float, default=0.1, help="its standard deviation")
    parser.add_argument("--target_recall", type=float, default=0.98)
    parser.add_argument("--exact_below", type=int, default=ChoiceSettings.exact_below)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timing")
    parser.add_argument("--threads", type=int, help="default: as torch and FAISS choose")
    parser.add_argument("--plot", type=Path, help="an .svg file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)

    items, users = draw(
        options.vectors, options.dimension, 2 * options.queries, options.bias, options.seed
    )
    choosing, measuring = users[: options.queries], users[options.queries :]
    ids = pa.array(np.arange(len(items)))
    settings = ChoiceSettings(
        target_recall=options.target_recall,
        queries=options.queries,
        exact_below=options.exact_below,
    )
    torch_exact = ExactIndex(torch.from_numpy(items))
    rounded = ExactIndex(torch.from_numpy(items), "bfloat16")
    flat = VectorIndex.build(items, ids)
    chosen = choose_index(items, ids, settings, queries_QD=choosing)
    mib = 2**20
    rows: list[tuple[str, Search, float, float]] = [
        ("exact, torch", lambda q: torch_exact.search(q, K)[1], 0.0, items.nbytes / mib),
        ("exact, FAISS Flat", lambda q: flat.search(q, K)[1], 0.0, flat.num_bytes / mib),
        ("all, bfloat16", lambda q: rounded.search(q, K)[1], 0.0, items.nbytes / 2 / mib),
        (
            f"auto: {chosen.factory} {_words(chosen)}".strip(),
            lambda q: chosen.search(q, K)[1],
            chosen.recall.build_s if chosen.recall else 0.0,
            chosen.num_bytes / mib,
        ),
    ]
    right = torch_exact.search(measuring, K)[1]
    print(
        f"{len(items):,} vectors of {options.dimension} components, {len(measuring):,} other "
        f"queries, {torch.get_num_threads()} threads\n"
    )
    batches = " | ".join(f"queries/s, {batch} at once | CPU ms each" for batch in BATCHES)
    print(f"| search | recall@{K} | {batches} | build s | MiB |")
    print("|---|" + "---:|" * (2 * len(BATCHES) + 3))
    speeds: list[list[Speed]] = []
    for name, search, seconds, size in rows:
        recall = float(recall_of_each(search(measuring), right).mean())
        speeds.append([timed(search, measuring, batch, options.seconds) for batch in BATCHES])
        cells = " | ".join(f"{s.queries_per_s:,.0f} | {s.cpu_ms:.3f}" for s in speeds[-1])
        print(f"| {name} | {recall:.4f} | {cells} | {seconds:.1f} | {size:,.0f} |", flush=True)
    print()
    for place, batch in enumerate(BATCHES):
        exact = max(speeds[0][place].queries_per_s, speeds[1][place].queries_per_s)
        ours = speeds[-1][place].queries_per_s
        by_flat = ours / speeds[1][place].queries_per_s
        print(
            f"{batch} at once: auto is {ours / exact:.1f} times as fast as the faster exact "
            f"search, {by_flat:.1f} times as FAISS Flat"
        )
    if chosen.recall is not None:
        print(f"\n| index | search | recall@{K} | ms a query |\n|---|---|---:|---:|")
        for point in chosen.recall.points:
            how = ", ".join(f"{n} {v}" for n, v in vars(point.search).items() if v)
            print(f"| {point.factory} | {how} | {point.recall:.4f} | {point.ms:.3f} |")
        if options.plot is not None:
            options.plot.write_text(recall_chart(chosen.recall), encoding="utf-8")


def _words(index: VectorIndex) -> str:
    return ", ".join(f"{name} {value}" for name, value in vars(index.defaults).items() if value)


if __name__ == "__main__":
    main()
