"""Which index: exact where vectors are few, else the first that finds enough, as measured."""

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int64

from idbert.errors import ConfigError
from idbert.retrieval.exact import ExactIndex
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_recall import RecallCurve, RecallPoint, measure
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.vectors import coded_cells

logger = logging.getLogger(__name__)

AUTO = "auto"
"""In place of a factory string: `choose_index` chooses one."""
_GRAPHS_TO = 300_000
_FEWEST_IN_CELLS = 1000
_MOST_CANDIDATES = 1024
_LEAST_GAIN, _NEARLY = 0.0005, 0.8
_REFINED, _FEWER_REFINED = 8, (4, 3)


@dataclass(frozen=True)
class ChoiceSettings:
    """What an index that is chosen must find, and how that is measured."""

    target_recall: float | int = 0.98
    """Share of the exact best items that an approximate index must find; with a certainty of 95%
    given the number of queries."""
    k: int = 10
    """Of how many best items."""
    queries: int = 1000
    """How many are searched for to measure it."""
    exact_below: int = 50_000
    """Fewer vectors than this are searched exactly, which is fast enough, and nothing is
    measured."""
    seed: int = 0
    """Draws the queries."""

    def __post_init__(self) -> None:
        if not 0 < self.target_recall <= 1:
            raise ConfigError(
                f"target_recall is {self.target_recall}; it must be above 0 and at most 1. For "
                "exactly 1 choose factory Flat."
            )
        for name in ("k", "queries", "exact_below"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def choose_index(
    vectors_ND: Float32[np.ndarray, "N D"],
    ids: pa.Array,
    settings: ChoiceSettings = ChoiceSettings(),  # noqa: B008 (frozen)
    *,
    queries_QD: Float32[np.ndarray, "Q D"] | None = None,
    queries_are: str = "users",
) -> VectorIndex:
    """Build the index that suits so many vectors, and choose how thoroughly it is searched.

    Below `exact_below` vectors it is Flat. Else candidates are built one after the other (a graph
    first where it is built in less than a minute, else cells, which take few seconds), each is
    searched ever more thoroughly, and the first that reaches the recall is it, with the least
    thorough search that does. Where none does, it is Flat again, and a warning says so.

    Args:
        vectors_ND: one vector a row.
        ids: N external ids, string or int64.
        settings: what it must find.
        queries_QD: what will be searched for, or a sample of it, of which `settings.queries` are
            drawn; None: vectors of the index itself.
        queries_are: what they are, in the plural, for the log and the chart.

    Returns:
        The index, its `defaults` and, where something was measured, its `recall`.

    Raises:
        DataError: a vector is not finite, or there are none.
        ShapeError: there are not as many ids as vectors.
        MissingExtraError: FAISS is not installed, or twice.
    """
    if len(vectors_ND) < settings.exact_below:
        logger.info("%d vectors: few enough to search all, exactly", len(vectors_ND))
        return VectorIndex.build(vectors_ND, ids)
    started = time.perf_counter()
    if queries_QD is None:
        queries_QD, queries_are = vectors_ND, "stored vectors"
    queries_QD = _sample(queries_QD, settings)
    points: list[RecallPoint] = []
    exact = ExactIndex(torch.from_numpy(vectors_ND))
    searched = time.perf_counter()
    exact_QK = exact.search(queries_QD, settings.k)[1]
    exact_ms = 1000 * (time.perf_counter() - searched) / len(queries_QD)
    build_s, chosen, index = 0.0, None, None
    tries = candidates(*vectors_ND.shape)
    for factory in tries:
        built = time.perf_counter()
        index = VectorIndex.build(vectors_ND, ids, factory=factory)
        build_s += time.perf_counter() - built
        tried = _search_ever_more(index, queries_QD, exact_QK, settings)
        points += tried
        reaching = [p for p in tried if p.recall_low >= settings.target_recall]
        best = max(point.recall for point in tried)
        if reaching:
            chosen = points.index(min(reaching, key=_thoroughness))
            break
        logger.info("index %s: a recall@%d of %.4f at most", factory, settings.k, best)
    if chosen is None or index is None:
        logger.warning(
            "no index of %s reaches a recall@%d of %g: all vectors will be searched, exactly. "
            "Lower target_recall for a faster one.",
            ", ".join(tries),
            settings.k,
            settings.target_recall,
        )
        index = VectorIndex.build(vectors_ND, ids)
    else:
        point = points[chosen]
        index.defaults = point.search
        logger.info(
            "index %s, %s: recall@%d of %.4f (at least %.4f) of %d %s, %.3f ms each; exact %.3f "
            "ms; chosen in %.0f s",
            *(point.factory, _words(point.search), settings.k, point.recall, point.recall_low),
            *(len(queries_QD), queries_are, point.ms, exact_ms, time.perf_counter() - started),
        )
    index.recall = RecallCurve(
        k=settings.k,
        queries=len(queries_QD),
        queries_are=queries_are,
        target=float(settings.target_recall),
        reached=chosen is not None,
        build_s=build_s,
        exact_ms=exact_ms,
        points=tuple(points),
        chosen=chosen,
    )
    return index


def candidates(count: int, dimension: int) -> list[str]:
    """Return the factory strings that are tried for so many vectors, in this order.

    Cells are read by 4-bit codes first, then by 16 bits a component, which takes three times as
    long and finds what codes of too few bits miss.
    """
    if count < _FEWEST_IN_CELLS:
        return ["HNSW32"]
    cells = 2 ** round(np.log2(4 * count**0.5))
    cells = max(1, min(cells, count // 40))
    in_cells = [coded_cells(cells, dimension), f"IVF{cells},SQfp16"]
    return ["HNSW32", *in_cells] if count < _GRAPHS_TO else [*in_cells, "HNSW32"]


def _sample(queries_QD: np.ndarray, settings: ChoiceSettings) -> np.ndarray:
    if len(queries_QD) <= settings.queries:
        return queries_QD
    rng = np.random.default_rng(settings.seed)
    rows = np.sort(rng.choice(len(queries_QD), settings.queries, replace=False))
    return np.ascontiguousarray(queries_QD[rows])


def _search_ever_more(
    index: VectorIndex,
    queries_QD: Float32[np.ndarray, "Q D"],
    exact_QK: Int64[np.ndarray, "Q K"],
    settings: ChoiceSettings,
) -> list[RecallPoint]:
    """Measure ever more thorough searches until one reaches the recall, then the one between.

    One more thorough step is measured too, for the chart.
    """

    def measured(search: SearchSettings) -> RecallPoint:
        return measure(
            lambda: index.search(queries_QD, settings.k, search)[1], exact_QK, index.factory, search
        )

    name, values = _ladder(index.factory, settings.k)
    is_refined = "Refine" in index.factory
    fixed: dict[str, int] = {"refine_factor": _REFINED} if is_refined else {}
    tried: list[RecallPoint] = []
    measured(SearchSettings(**{name: values[0]}))  # the first search also starts the threads
    reached: int | None = None
    for place, value in enumerate(values):
        tried.append(measured(SearchSettings(**{name: value}, **fixed)))
        is_flat = len(tried) > 1 and tried[-1].recall - tried[-2].recall < _LEAST_GAIN
        if reached is not None or (is_flat and tried[-1].recall > _NEARLY):
            break  # more cells tell no more apart than their bits do
        if tried[-1].recall_low >= settings.target_recall:
            reached = place
    if reached is not None and reached > 0:
        low, high = values[reached - 1], values[reached]
        for _ in range(2):  # to within a fifth of the least that does
            middle = round((low * high) ** 0.5)
            if middle in (low, high):
                break
            tried.append(measured(SearchSettings(**{name: middle}, **fixed)))
            if tried[-1].recall_low >= settings.target_recall:
                high = middle
            else:
                low = middle
        values[reached] = high
    if reached is not None and is_refined:
        for factor in _FEWER_REFINED:
            search = SearchSettings(**{name: values[reached]}, refine_factor=factor)
            tried.append(measured(search))
            if tried[-1].recall_low < settings.target_recall:
                break
    return tried


def _ladder(factory: str, k: int) -> tuple[str, list[int]]:
    """Return the setting by which an index is searched more thoroughly, and values to try."""
    in_cells = re.search(r"(?:^|,)IVF(\d+)", factory)
    if in_cells:
        return "nprobe", list(_doubling(1, max(1, int(in_cells[1]) // 2)))
    return "ef_search", [n for n in _doubling(16, _MOST_CANDIDATES) if n >= k] or [k]


def _doubling(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


def _thoroughness(point: RecallPoint) -> tuple[int, ...]:
    """Return what is larger for a more thorough search: cells or candidates, then refinement."""
    search = point.search
    return (search.nprobe or search.ef_search or 0, search.refine_factor or 0)


def _words(search: SearchSettings) -> str:
    given: dict[str, Any] = {name: value for name, value in vars(search).items() if value}
    return ", ".join(f"{name} {value}" for name, value in given.items())
