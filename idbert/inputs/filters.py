"""Which interactions are worth training on: the k-core, and no repeats in a row."""

import logging

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool

from idbert.errors import DataError
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, Interactions

logger = logging.getLogger(__name__)


def filter_interactions(
    interactions: Interactions, min_user_events: int, min_item_events: int, drop_repeats: bool
) -> Interactions:
    """Drop rare users, rare items and repeats, until nothing more is to be dropped.

    The filters feed each other: without a rare item two events of another item can become
    neighbours, and without a repeat a user can become rare.

    Raises:
        DataError: nothing is left.
    """
    kept = interactions
    while True:
        before = len(kept)
        if drop_repeats:
            kept = drop_consecutive_repeats(kept)
        if max(min_user_events, min_item_events) > 1:
            kept = k_core(kept, min_user_events, min_item_events)
        if len(kept) == before:
            break
    if len(kept) == 0:
        raise DataError(
            f"nothing is left of {len(interactions):,} interactions with "
            f"min_user_events={min_user_events}, min_item_events={min_item_events} and "
            f"drop_repeats={drop_repeats}. Lower the minimum counts."
        )
    if len(kept) < len(interactions):
        logger.info("%d of %d interactions kept by the filters", len(kept), len(interactions))
    return kept


def k_core(interactions: Interactions, min_user_events: int, min_item_events: int) -> Interactions:
    """Keep the largest part in which every user and every item has enough events.

    Dropping an item can make its users rare, and so on: both are dropped until nothing changes.
    The result does not depend on the order of dropping.
    """
    users = np.repeat(
        np.arange(len(interactions.user_offsets()) - 1), np.diff(interactions.user_offsets())
    )
    items = pc.dictionary_encode(interactions.column(ITEM).combine_chunks()).indices.to_numpy()
    rows = np.arange(len(interactions))
    while True:
        enough = (np.bincount(users)[users] >= min_user_events) & (
            np.bincount(items)[items] >= min_item_events
        )
        if enough.all():
            break
        users, items, rows = users[enough], items[enough], rows[enough]
    keep = np.zeros(len(interactions), dtype=bool)
    keep[rows] = True
    return interactions.filter(keep)


def drop_consecutive_repeats(interactions: Interactions) -> Interactions:
    """Keep the first of a user's consecutive events with the same item (and behaviour)."""
    same = np.zeros(len(interactions), dtype=bool)
    same[1:] = True
    for name in (USER, ITEM, BEHAVIOUR):
        if interactions.has(name):
            same[1:] &= _equals_previous(interactions, name)
    return interactions.filter(~same)


def count_duplicates(interactions: Interactions) -> int:
    """Return how many rows repeat an earlier row in every column."""
    table = interactions.table
    # Duplicates share user and time, hence lie in one run of such rows; few logs have many.
    tied = np.zeros(len(interactions) + 1, dtype=bool)
    tied[1:-1] = _equals_previous(interactions, USER) & _equals_previous(interactions, TIME)
    runs = table.filter(tied[:-1] | tied[1:])
    return int(runs.num_rows - runs.group_by(table.column_names).aggregate([]).num_rows)


def _equals_previous(interactions: Interactions, name: str) -> Bool[np.ndarray, "N"]:
    """Say for every row but the first whether a column holds the same as in the row before."""
    values = interactions.column(name).combine_chunks()
    return np.asarray(pc.equal(values[1:], values[:-1]))
