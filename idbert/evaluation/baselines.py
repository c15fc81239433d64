"""What a model has to beat: popularity, recent popularity, nearest items, and EASE.

Each is called like a model: positions of users in, scores for every vocabulary row out.

A baseline costs seconds to fit, so it is fitted on everything known when its users are scored: for
the test of a leave-last-out split on the training and the validation events. A trained model saw
the validation events only as history, unless it was trained until the test (split.train_until).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
from scipy import sparse
from torch import Tensor

from idbert.errors import ConfigError
from idbert.evaluation.ease import Ease, ease_table
from idbert.evaluation.ranks import Score
from idbert.evaluation.user_items import HistoryScore, binary_matrix, decayed_matrix
from idbert.rows import FIRST_ITEM

logger = logging.getLogger(__name__)

POPULARITY, RECENT_POPULARITY = "popularity", "recent popularity"
ITEM_KNN, DECAYED_ITEM_KNN = "item-kNN", "item-kNN, decayed"
EASE, DECAYED_EASE = "EASE", "EASE, decayed"
NAMES = (POPULARITY, RECENT_POPULARITY, ITEM_KNN, DECAYED_ITEM_KNN, EASE, DECAYED_EASE)
"""Of the baselines in tables and files."""

DAY_US = 24 * 60 * 60 * 1_000_000
DENSE_ROWS = 10_000
"""Up to so many vocabulary rows the similarities are one dense table (at most 400 MB), which all
neighbour models share."""
SPARSE_NEIGHBOURS = 200
"""Neighbours kept for each item of a larger catalogue, unless the caller names a number."""
CHUNK_PAIRS = 8_000_000
"""Item pairs whose similarity is worked out at once."""


@dataclass(frozen=True)
class BaselineSettings:
    """How the baselines are fitted."""

    ease_l2: float = 300.0
    """Regularisation of EASE; choose it by rec_evaluate --part validation."""
    ease_max_items: int = 15_000
    """EASE is left out of larger catalogues: it takes 12 bytes for each pair of items (2.7 GB at
    15,000) and a time that grows with the cube of their number; 0 leaves it out always."""

    def __post_init__(self) -> None:
        if not 0 < self.ease_l2 < np.inf:
            raise ConfigError(f"ease_l2 is {self.ease_l2}; give a positive number.")
        if self.ease_max_items < 0:
            raise ConfigError(f"ease_max_items is {self.ease_max_items}; give 0 or more items.")


def fit_baselines(
    train_items: Integer[np.ndarray, "T"],
    train_offsets: Integer[np.ndarray, "..."],
    history_items: Integer[np.ndarray, "N"],
    history_offsets: Integer[np.ndarray, "..."],
    vocab_size: int,
    *,
    train_times: Int64[np.ndarray, "T"] | None = None,
    settings: BaselineSettings = BaselineSettings(),  # noqa: B008 (frozen)
) -> dict[str, Score]:
    """Fit every baseline, named as in the comparison table.

    Args:
        train_items: the events to fit on, end to end, as vocabulary rows.
        train_offsets: user u owns `train_items[train_offsets[u] : train_offsets[u + 1]]`.
        history_items: the histories of the users to score, likewise end to end.
        history_offsets: where each of these users' history begins.
        vocab_size: V, special rows included.
        train_times: when the events to fit on happened, in microseconds since 1970. None where
            times only order a user's events: then recent popularity has no meaning and is left out.
        settings: of those baselines that have some.
    """
    baselines: dict[str, Score] = {POPULARITY: Popularity(train_items, vocab_size)}
    if train_times is not None:
        baselines[RECENT_POPULARITY] = RecentPopularity(train_items, train_times, vocab_size)
    cosines_VV = item_cosines(train_items, train_offsets, vocab_size)
    if vocab_size <= DENSE_ROWS:
        cosines_VV = cosines_VV.toarray()
    baselines[ITEM_KNN] = ItemKnn(cosines_VV, history_items, history_offsets)
    baselines[DECAYED_ITEM_KNN] = ItemKnn(cosines_VV, history_items, history_offsets, decay=10.0)
    num_items = vocab_size - FIRST_ITEM
    if num_items > settings.ease_max_items:
        logger.info(
            "EASE is left out: a matrix of %d x %d items would take %.1f GB (more than "
            "ease_max_items=%d items)",
            num_items,
            num_items,
            12e-9 * num_items**2,
            settings.ease_max_items,
        )
        return baselines
    table_VV = ease_table(train_items, train_offsets, vocab_size, l2=settings.ease_l2)
    baselines[EASE] = Ease(table_VV, history_items, history_offsets)
    baselines[DECAYED_EASE] = Ease(table_VV, history_items, history_offsets, decay=10.0)
    return baselines


class Popularity:
    """Score every item by its number of training events, the same for all users.

    Args:
        train_items: vocabulary rows of the training events.
        vocab_size: V, special rows included.
    """

    def __init__(self, train_items: Integer[np.ndarray, "T"], vocab_size: int) -> None:
        counts_V = np.bincount(train_items, minlength=vocab_size)
        self.scores_V = torch.from_numpy(counts_V.astype(np.float32))

    def __call__(self, positions_B: Int64[np.ndarray, "B"]) -> Float[Tensor, "B V"]:
        """Return the counts, once for each user."""
        return self.scores_V.expand(len(positions_B), -1)


class RecentPopularity(Popularity):
    """Score every item by its number of events in the last days of training.

    Source: Ji, Sun, Zhang and Li, "A Re-visit of the Popularity Baseline in Recommender Systems",
    SIGIR 2020 (the recent-popularity method).

    Args:
        train_items: vocabulary rows of the training events.
        train_times: when each happened, in microseconds since 1970; real times, not positions.
        vocab_size: V, special rows included.
        window_days: length of the window that ends with the newest training event.

    Raises:
        ConfigError: window_days is less than 1.
    """

    def __init__(
        self,
        train_items: Integer[np.ndarray, "T"],
        train_times: Int64[np.ndarray, "T"],
        vocab_size: int,
        *,
        window_days: int = 30,
    ) -> None:
        if window_days < 1:
            raise ConfigError(f"window_days is {window_days}; give 1 day or more.")
        recent_T = train_times > train_times.max() - window_days * DAY_US
        super().__init__(train_items[recent_T], vocab_size)


class ItemKnn(HistoryScore):
    """Score items by their cosine similarity to the items of the user's history.

    score(item) = sum over the history's events of weight(event) * cosine(event's item, item),
    with weight 1, or with `decay` exp(-age / decay), where age is the number of the user's events
    since (0 for the newest): what was done last counts most.

    Source: Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001.

    Args:
        cosines_VV: from `item_cosines`, or the same as a dense array, which is faster; shared by
            neighbour models with different decays.
        history_items: the histories of the users to score, end to end, as vocabulary rows.
        history_offsets: where each user's history begins.
        decay: None, or the number of events after which an event's weight has fallen to 1/e.

    Raises:
        ConfigError: decay is not positive.
    """

    def __init__(
        self,
        cosines_VV: sparse.csr_array | Float32[np.ndarray, "V V"],
        history_items: Integer[np.ndarray, "T"],
        history_offsets: Integer[np.ndarray, "..."],
        *,
        decay: float | None = None,
    ) -> None:
        vocab_size = cosines_VV.shape[0]
        weights_UV = decayed_matrix(history_items, history_offsets, vocab_size, decay)
        super().__init__(cosines_VV, weights_UV)


def item_cosines(
    train_items: Integer[np.ndarray, "T"],
    train_offsets: Integer[np.ndarray, "..."],
    vocab_size: int,
    *,
    max_neighbours: int | None = None,
) -> sparse.csr_array:
    """Return the cosine between the columns of any two items in the binary user-item matrix.

    cosine(i, j) = users of both / sqrt(users of i * users of j); 0 between an item and itself, so
    that an item never recommends itself.

    Args:
        train_items: the training histories end to end, as vocabulary rows.
        train_offsets: user u owns `train_items[train_offsets[u] : train_offsets[u + 1]]`.
        vocab_size: V, special rows included.
        max_neighbours: how many of its most similar items each item keeps. None: all of them up to
            DENSE_ROWS vocabulary rows and SPARSE_NEIGHBOURS in larger catalogues, where the table
            takes at most 8 * V * max_neighbours bytes.

    Returns:
        A sparse V x V table: the neighbours of item i are row i.

    Raises:
        ConfigError: max_neighbours is less than 1.
    """
    if max_neighbours is None:
        max_neighbours = vocab_size if vocab_size <= DENSE_ROWS else SPARSE_NEIGHBOURS
    if max_neighbours < 1:
        raise ConfigError(f"max_neighbours is {max_neighbours}; give 1 or more, or None.")
    seen_UV = binary_matrix(train_items, train_offsets, vocab_size)
    norms_V = np.sqrt(np.maximum(seen_UV.sum(axis=0), 1))
    unit_UV = seen_UV @ sparse.diags_array(1 / norms_V, dtype=np.float32)
    unit_VU = unit_UV.T.tocsr()
    parts = [
        _nearest(unit_VU[start:stop] @ unit_UV, start, max_neighbours)
        for start, stop in _row_chunks(seen_UV)
    ]
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


def _row_chunks(seen_UV: sparse.csr_array) -> Iterator[tuple[int, int]]:
    """Cut the items into runs with about CHUNK_PAIRS pairs each.

    An item has at most as many neighbours as the histories that hold it have events.
    """
    pairs_V = seen_UV.T @ np.diff(seen_UV.indptr)
    chunk_V = np.cumsum(pairs_V) // CHUNK_PAIRS
    starts = np.flatnonzero(np.diff(chunk_V, prepend=-1))
    return pairwise([*starts.tolist(), len(pairs_V)])


def _nearest(cosines: sparse.csr_array, first_row: int, max_neighbours: int) -> sparse.csr_array:
    """Return the largest `max_neighbours` of every row, the item's own column left out.

    Among equal cosines the lower column stays, which in a vocabulary is the more popular item.
    """
    lengths = np.diff(cosines.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    columns, values = cosines.indices, cosines.data
    others = columns != rows + first_row
    rows, columns, values = rows[others], columns[others], values[others]
    if lengths.max(initial=0) > max_neighbours:
        order = np.lexsort((columns, -values, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        starts = np.searchsorted(rows, np.arange(len(lengths)))
        near = np.arange(len(rows)) - starts[rows] < max_neighbours
        rows, columns, values = rows[near], columns[near], values[near]
    return sparse.csr_array((values, (rows, columns)), shape=cosines.shape)
