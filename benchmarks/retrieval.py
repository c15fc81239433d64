"""How fast is the index that is chosen, beside exact search, and what does it find?

    python -m benchmarks.retrieval --vectors 1000000 --dimension 64 --write

The vectors are drawn to look like those of a trained recommender: in clusters, with a spectrum that
falls like that of item embeddings trained on ml-1m, norms that differ by a sixth, and an item bias
as the last component. Users stand near the clusters. A larger --bias is harder for every index.

The index is chosen with one half of the users and measured with the other. Exact search is timed
twice, by torch and by FAISS; the ratio is to the faster one. Queries a second are those of windows
of a second in which other processes used less than 6% of the machine, as long as there are such.
CPU ms are those of this process, and tell on a busy machine too. The plot shows recall against
latency of everything that was tried.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import report
from benchmarks.quiet import Windows, in_turn, quiet_ones
from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_choice import ChoiceSettings, choose_index
from idbert.retrieval.index_recall import RecallCurve, recall_of_each
from idbert.retrieval.recall_chart import recall_chart

K = 10
BATCHES = (1, 256)
EXACT = ("exact, torch", "exact, FAISS Flat")
Search = Callable[[np.ndarray], np.ndarray]


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


def timed(search: Search, queries: np.ndarray, batch: int, seconds: float) -> dict[str, Any]:
    """Search for all queries again and again, for about so many seconds."""
    search(queries[:batch])
    windows, done, end = Windows(), 0, time.perf_counter() + seconds
    while True:
        first = done % len(queries)
        found = len(search(queries[first : first + batch]))
        done += found
        windows.count(queries=found)
        is_last = time.perf_counter() >= end
        windows.tick(last=is_last)
        if is_last:
            return windows.summary()


def searches(
    items: np.ndarray, choosing: np.ndarray, options: argparse.Namespace
) -> tuple[dict[str, tuple[Search, float, float]], RecallCurve | None]:
    """Build all indexes.

    Returns:
        Of each by its name: the search, the seconds that building took, its MiB; and what was tried
        to choose the last one.
    """
    ids = pa.array(np.arange(len(items)))
    settings = ChoiceSettings(
        target_recall=options.target_recall,
        queries=options.queries,
        exact_below=options.exact_below,
    )
    exact = ExactIndex(torch.from_numpy(items))
    rounded = ExactIndex(torch.from_numpy(items), "bfloat16")
    flat = VectorIndex.build(items, ids)
    chosen = choose_index(items, ids, settings, queries_QD=choosing)
    words = ", ".join(f"{name} {value}" for name, value in vars(chosen.defaults).items() if value)
    mib = 2**20
    found: dict[str, tuple[Search, float, float]] = {
        EXACT[0]: (lambda q: exact.search(q, K)[1], 0.0, items.nbytes / mib),
        EXACT[1]: (lambda q: flat.search(q, K)[1], 0.0, flat.num_bytes / mib),
        "all, bfloat16": (lambda q: rounded.search(q, K)[1], 0.0, items.nbytes / 2 / mib),
        f"idbert, auto: {chosen.factory} {words}".strip(): (
            lambda q: chosen.search(q, K)[1],
            chosen.recall.build_s if chosen.recall else 0.0,
            chosen.num_bytes / mib,
        ),
    }
    return found, chosen.recall


def main(arguments: list[str] | None = None) -> None:
    """Measure all searches in turn and publish the table."""
    parser = report.new_parser(__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000, help="items")
    parser.add_argument("--dimension", type=int, default=64, help="components, the bias included")
    parser.add_argument("--queries", type=int, default=1024, help="users to choose by; and others")
    parser.add_argument("--bias", type=float, default=0.1, help="its standard deviation")
    parser.add_argument("--target_recall", type=float, default=0.98)
    parser.add_argument("--exact_below", type=int, default=ChoiceSettings.exact_below)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timing")
    parser.add_argument("--threads", type=int, help="default: as torch and FAISS choose")
    parser.add_argument("--seed", type=int, default=0)
    small = {"vectors": 3000, "dimension": 16, "queries": 64, "exact_below": 1000, "passes": 1}
    options = report.parse(parser, arguments, **small, seconds=0.01)
    if options.threads:
        torch.set_num_threads(options.threads)
    items, users = draw(
        options.vectors, options.dimension, 2 * options.queries, options.bias, options.seed
    )
    choosing, measuring = users[: options.queries], users[options.queries :]
    built, tried = searches(items, choosing, options)
    right = built[EXACT[0]][0](measuring)
    measured = {}
    for batch in BATCHES:
        forms = {
            who: partial(timed, search, measuring, batch, options.seconds)
            for who, (search, _, _) in built.items()
        }
        measured[batch], _ = in_turn(forms, options.passes, options.wait)
    speeds = {
        batch: {who: [one["queries_per_s"] for one in quiet_ones(p)] for who, p in found.items()}
        for batch, found in measured.items()
    }
    header = ["", f"recall@{K}"]
    for batch in BATCHES:
        header += [f"queries/s, {batch} at once", "CPU ms each"]
    rows = []
    for who, (search, seconds, size) in built.items():
        row = [who, f"{recall_of_each(search(measuring), right).mean():.4f}"]
        for batch in BATCHES:
            cpu = [1000 / one["queries_per_cpu_s"] for one in quiet_ones(measured[batch][who])]
            row += [report.spread(speeds[batch][who]), report.spread(cpu, ".3f")]
        load = report.foreign([one for batch in BATCHES for one in measured[batch][who]])
        rows.append([*row, f"{seconds:.1f}", f"{size:,.0f}", load])
    notes = [f"{len(measuring):,} other queries, {torch.get_num_threads()} threads."]
    for batch in BATCHES:
        notes += [f"{batch} at once: {line}" for line in report.ratios(speeds[batch])]
    title = f"Search in {len(items):,} vectors of {options.dimension} components"
    if tried is None:
        plot = report.bars(title, speeds[BATCHES[-1]], f"queries a second, {BATCHES[-1]} at once")
    else:
        plot = recall_chart(tried)
        for point in tried.points:
            how = ", ".join(
                f"{name} {value}" for name, value in vars(point.search).items() if value
            )
            notes.append(
                f"tried: {point.factory} {how}: recall {point.recall:.4f}, {point.ms:.3f} ms"
            )
    finished = report.Report(
        report.section_name("retrieval", len(items), options.dimension),
        title,
        report.markdown([*header, "build s", "MiB", "foreign"], rows),
        notes,
        plot,
    )
    report.publish(finished, "retrieval", options)


if __name__ == "__main__":
    main()
