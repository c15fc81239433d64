"""What recommendation lists are like beside being right: coverage, novelty, diversity, serendipity.

All are figures of a list of LIST_LENGTH items; -1 in a list is an empty place.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Float64, Int64, Integer
from scipy import sparse

from idbert.rows import FIRST_ITEM

LIST_LENGTH = 10
"""How many recommendations a user these metrics look at."""

CHUNK_LISTS = 50_000
"""Lists whose pairs of items are looked at together."""


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


def diversity(
    top_UK: Int64[np.ndarray, "U K"],
    cosines_VV: sparse.csr_array | Float32[np.ndarray, "V V"],
) -> Float64[np.ndarray, "U"]:
    """Return each list's mean of 1 - cosine(i, j) over all pairs of its items, between 0 and 1.

    The cosine is that of `item_cosines`: two items are alike if the same users have both. A list of
    items that nobody has together has diversity 1, and a list with fewer than two items has 0.

    Sources: Smyth and McClave, "Similarity vs. Diversity", ICCBR 2001 (mean dissimilarity of
    pairs); Ziegler, McNee, Konstan and Lausen, "Improving Recommendation Lists Through Topic
    Diversification", WWW 2005 (intra-list similarity).

    Args:
        top_UK: each user's recommendations.
        cosines_VV: from `item_cosines`, dense or not. Where it keeps the nearest neighbours only,
            two items of which neither is a neighbour of the other count as unlike.
    """
    return np.concatenate([_diversity(top_BK, cosines_VV) for top_BK in _chunks(top_UK)])


def _diversity(
    top_BK: np.ndarray, cosines_VV: sparse.csr_array | np.ndarray
) -> Float64[np.ndarray, "B"]:
    first, second = np.triu_indices(top_BK.shape[1], 1)
    one, other = top_BK[:, first], top_BK[:, second]
    are_given = (one >= 0) & (other >= 0)
    places = one[are_given], other[are_given]
    alike = _entries(cosines_VV, *places)
    if sparse.issparse(cosines_VV):  # of an item that keeps many more than it is kept by
        alike = np.maximum(alike, _entries(cosines_VV, *places[::-1]))
    unlike = np.zeros(one.shape)
    unlike[are_given] = 1 - np.minimum(alike, 1)
    return np.asarray(unlike.sum(1) / np.maximum(are_given.sum(1), 1))


def _entries(
    table_VV: sparse.csr_array | np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    found = table_VV[rows, columns]
    return np.asarray(found.toarray() if sparse.issparse(found) else found)


def _chunks(top_UK: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, max(len(top_UK), 1), CHUNK_LISTS):
        yield top_UK[start : start + CHUNK_LISTS]


def serendipity(
    ranks_Q: Float64[np.ndarray, "Q"],
    popular_ranks_Q: Float64[np.ndarray, "Q"],
    k: int = LIST_LENGTH,
) -> Float64[np.ndarray, "Q"]:
    """Return 1 for each target that is recommended and is unexpected, 0 for the others.

    A target is unexpected if the k most popular items (of those that may be recommended) do not
    hold it. The mean is the part of recall@k that popularity does not reach; popularity has 0.

    Source: Ge, Delgado-Battenfeld and Jannach, "Beyond Accuracy: Evaluating Recommender Systems by
    Coverage and Serendipity", RecSys 2010: what is useful among what a primitive model, here
    popularity, does not recommend. Not divided by k, since there is one useful item in a list.

    Args:
        ranks_Q: rank of each target, from 1.
        popular_ranks_Q: its rank by popularity, by the same protocol.
        k: length of both lists.
    """
    return np.where((ranks_Q <= k) & (popular_ranks_Q > k), 1.0, 0.0)
