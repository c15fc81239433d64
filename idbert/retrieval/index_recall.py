"""How much an approximate index finds, and how fast: measured, and kept with the index."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from idbert.retrieval.index_settings import SearchSettings

_CERTAINTY = 1.645
"""Standard errors below a mean, above which the true one is with a probability of 95%."""


@dataclass(frozen=True)
class RecallPoint:
    """One way to search one index.

    Attributes:
        factory: of the index.
        search: how thoroughly it was searched.
        recall: share of the exact best rows that were found, mean over the queries.
        recall_low: what the recall of all queries is above, with a probability of 95%.
        ms: milliseconds a query, many queries at once.
    """

    factory: str
    search: SearchSettings
    recall: float
    recall_low: float
    ms: float


@dataclass(frozen=True)
class RecallCurve:
    """What was measured when an index was chosen.

    Attributes:
        k: rows that were looked for.
        queries: how many were searched for.
        queries_are: what they were: "users", say.
        target: the recall that was wanted.
        reached: whether an approximate index reached it.
        build_s: seconds that all indexes took to build.
        exact_ms: milliseconds a query that exact search takes.
        points: in the order in which they were tried; the last of the chosen index are its own.
        chosen: place among the points; None: exact search.
    """

    k: int
    queries: int
    queries_are: str
    target: float
    reached: bool
    build_s: float
    exact_ms: float
    points: tuple[RecallPoint, ...]
    chosen: int | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "RecallCurve":
        """Return what `dataclasses.asdict` made plain values of."""
        points = tuple(
            RecallPoint(**{**point, "search": SearchSettings(**point["search"])})
            for point in values["points"]
        )
        return cls(**{**values, "points": points})


def recall_of_each(
    found_QK: Int64[np.ndarray, "Q K"], exact_QK: Int64[np.ndarray, "Q K"]
) -> Float32[np.ndarray, "Q"]:
    """Return the share of each query's exact best rows that were found; -1 counts as none."""
    is_right = exact_QK >= 0
    is_found = (found_QK[:, None, :] == exact_QK[:, :, None]).any(axis=2) & is_right
    shares: np.ndarray = is_found.sum(axis=1) / is_right.sum(axis=1).clip(min=1)
    return shares.astype(np.float32)


def measure(
    search: Callable[[], Int64[np.ndarray, "Q K"]],
    exact_QK: Int64[np.ndarray, "Q K"],
    factory: str,
    settings: SearchSettings,
) -> RecallPoint:
    """Search once, and say how much was found and how fast.

    Args:
        search: returns the rows found.
        exact_QK: the rows that exact search finds.
        factory: of the index.
        settings: how it is searched.
    """
    started = time.perf_counter()
    found_QK = search()
    seconds = time.perf_counter() - started
    shares_Q = recall_of_each(found_QK, exact_QK)
    error = float(shares_Q.std()) / max(1, len(shares_Q)) ** 0.5
    recall = float(shares_Q.mean())
    return RecallPoint(
        factory, settings, recall, recall - _CERTAINTY * error, 1000 * seconds / len(exact_QK)
    )
