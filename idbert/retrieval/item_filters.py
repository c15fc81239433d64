"""Which items may be recommended, and which stand in where nothing is known of a user."""

import logging

import numpy as np
from jaxtyping import Bool, Float64, Int64

from idbert.errors import ConfigError, DataError
from idbert.inputs.vocabulary import Ids, Vocabulary
from idbert.rows import FIRST_ITEM, UNK

logger = logging.getLogger(__name__)


def allowed_items(
    vocabulary: Vocabulary, allow: Ids | None, deny: Ids | None
) -> Bool[np.ndarray, "N"] | None:
    """Return which items may be recommended; None: all.

    Args:
        vocabulary: of N items.
        allow: the only items that may be; None: all.
        deny: items that may not be; ids outside the catalogue change nothing.

    Raises:
        DataError: no allowed item is in the catalogue, or all of them are denied.
    """
    if allow is None and deny is None:
        return None
    allowed_V = np.full(len(vocabulary), allow is None)
    if allow is not None:
        rows = vocabulary.rows(allow)
        known = rows[rows != UNK]
        if len(known) == 0:
            raise DataError(f"none of the {len(rows)} allowed items is in the catalogue.")
        if len(known) < len(rows):
            logger.warning(
                "%d of %d allowed items are not in the catalogue",
                len(rows) - len(known),
                len(rows),
            )
        allowed_V[known] = True
    if deny is not None:
        rows = vocabulary.rows(deny)
        unknown = int(np.count_nonzero(rows == UNK))
        if unknown:
            logger.warning("%d of %d denied items are not in the catalogue", unknown, len(rows))
        allowed_V[rows] = False
        if not allowed_V[FIRST_ITEM:].any():
            of = "the catalogue's" if allow is None else "the allowed"
            raise DataError(f"all {of} items are denied: nothing is left to recommend.")
    return allowed_V[FIRST_ITEM:]


def popular_items(
    counts_N: Float64[np.ndarray, "N"], k: int, allowed_N: Bool[np.ndarray, "N"] | None
) -> Int64[np.ndarray, "_"]:
    """Return the k most frequent of the allowed items, fewer if there are fewer."""
    order_N = np.argsort(-counts_N, kind="stable")
    return (order_N if allowed_N is None else order_N[allowed_N[order_N]])[:k]


def check_k(k: int, largest: int, num_items: int) -> None:
    """Check how many items are asked for.

    Args:
        k: items wanted.
        largest: the most there can be.
        num_items: N, the catalogue's.

    Raises:
        ConfigError: k is below 1.
        DataError: k is above the largest.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1.")
    if k > largest:
        raise DataError(
            f"k is {k}, but there are only {largest} items to choose from: the catalogue has "
            f"{num_items}."
        )
