"""Recall, NDCG and MRR of ranks; coverage and novelty of recommendation lists.

With one target a user the ideal ranking has it at rank 1, so that NDCG@k is 1 / log2(rank + 1) up
to k and 0 behind, recall@k is the hit rate, and MRR@k is 1 / rank up to k.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, Integer

from idbert.rows import FIRST_ITEM

CUTOFFS = (1, 5, 10, 20)
"""The ks of recall@k, NDCG@k and MRR@k."""

LIST_LENGTH = 10
"""How many recommendations a user coverage and novelty look at."""


def per_user_metrics(
    ranks_U: Float64[np.ndarray, "U"], ks: Sequence[int] = CUTOFFS
) -> dict[str, Float64[np.ndarray, "U"]]:
    """Return every user's recall@k, ndcg@k and mrr@k, all between 0 and 1.

    A rank between two whole ones (from ties) counts as it is: rank 10.5 is a miss at k = 10.

    Args:
        ranks_U: rank of each user's one target, from 1.
        ks: lengths at which the recommendation list is cut.
    """
    values = {
        "recall": np.ones_like(ranks_U),
        "ndcg": 1 / np.log2(ranks_U + 1),
        "mrr": 1 / ranks_U,
    }
    return {
        f"{name}@{k}": np.where(ranks_U <= k, value_U, 0.0)
        for name, value_U in values.items()
        for k in ks
    }


def metrics_at(ranks_U: Float64[np.ndarray, "U"], ks: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Return the means over users of `per_user_metrics`."""
    return {name: float(value_U.mean()) for name, value_U in per_user_metrics(ranks_U, ks).items()}


def coverage(top_UK: Int64[np.ndarray, "U K"], num_items: int) -> float:
    """Return the share of the catalogue's items that stand in at least one user's list.

    Args:
        top_UK: each user's recommendations; -1 for an empty place.
        num_items: items that could be recommended.
    """
    return len(np.unique(top_UK[top_UK >= 0])) / num_items


def novelty(
    top_UK: Int64[np.ndarray, "U K"],
    counts_V: Integer[np.ndarray, "V"],
    first_item: int = FIRST_ITEM,
) -> Float64[np.ndarray, "U"]:
    """Return each user's mean self-information, in bits, of the recommended items.

    An item that makes up the share p of all training interactions carries -log2 p bits: the rarer
    an item, the more novel. One is added to each item's count, so that an item without any
    interaction carries finitely many bits. A user with an empty list has 0.

    Source: Castells, Vargas and Wang, "Novelty and Diversity Metrics for Recommender Systems:
    Choice, Discovery and Relevance", DDR workshop at ECIR 2011 (popularity-based item novelty).

    Args:
        top_UK: each user's recommendations; -1 for an empty place.
        counts_V: training interactions of each vocabulary row.
        first_item: rows below it are special tokens and hold no interactions.
    """
    smoothed_V = counts_V.astype(np.float64) + 1
    bits_V = np.log2(smoothed_V[first_item:].sum()) - np.log2(smoothed_V)
    given_UK = top_UK >= 0
    bits_UK = np.where(given_UK, bits_V[top_UK], 0.0)
    return np.asarray(bits_UK.sum(1) / np.maximum(given_UK.sum(1), 1))
