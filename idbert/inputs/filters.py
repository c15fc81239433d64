"""Which interactions are worth training on: the k-core, and no repeats in a row."""

import logging

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Int32, Int64

from idbert.errors import DataError
from idbert.inputs.flat_arrays import user_chunks
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, Interactions

logger = logging.getLogger(__name__)


def filter_interactions(
    interactions: Interactions, min_user_events: int, min_item_events: int, drop_repeats: bool
) -> Interactions:
    """Drop rare users, rare items and repeats, until nothing more is to be dropped.

    Raises:
        DataError: nothing is left.
    """
    if max(min_user_events, min_item_events) == 1 and not drop_repeats:
        return interactions
    behaviours_T = _codes(interactions, BEHAVIOUR) if interactions.has(BEHAVIOUR) else None
    keep_T = kept_events(
        interactions.user_offsets(),
        _codes(interactions, ITEM),
        behaviours_T,
        min_user_events=min_user_events,
        min_item_events=min_item_events,
        drop_repeats=drop_repeats,
    )
    return interactions if keep_T.all() else interactions.filter(keep_T)


def kept_events(
    offsets: Int64[np.ndarray, "_"],
    items_T: Int32[np.ndarray, "T"],
    behaviours_T: Int32[np.ndarray, "T"] | None,
    *,
    min_user_events: int,
    min_item_events: int,
    drop_repeats: bool,
) -> Bool[np.ndarray, "T"]:
    """Say which events stay when rare users, rare items and repeats are dropped.

    The filters feed each other, so they act in turns until nothing changes: without a rare item two
    events of another item can become neighbours, and without a repeat a user can become rare.

    Args:
        offsets: U + 1 bounds of the users' events, oldest first; arrays may be mapped files.
        items_T: small numbers that stand for the items.
        behaviours_T: likewise for the behaviours; None: there are none.
        min_user_events: users with fewer events are dropped.
        min_item_events: items with fewer events are dropped.
        drop_repeats: of a user's consecutive events with one item and behaviour keep the first.

    Raises:
        DataError: nothing is left.
    """
    keep_T = np.ones(len(items_T), dtype=bool)
    left = len(items_T)
    while True:
        before = left
        if drop_repeats:
            _drop_repeats(keep_T, offsets, items_T, behaviours_T)
        if max(min_user_events, min_item_events) > 1:
            _drop_rare(keep_T, offsets, items_T, min_user_events, min_item_events)
        left = int(np.count_nonzero(keep_T))
        if left in (before, 0):
            break
    if left == 0:
        raise DataError(
            f"nothing is left of {len(items_T):,} interactions with "
            f"min_user_events={min_user_events}, min_item_events={min_item_events} and "
            f"drop_repeats={drop_repeats}. Lower the minimum counts."
        )
    if left < len(items_T):
        logger.info("%d of %d interactions kept by the filters", left, len(items_T))
    return keep_T


def k_core(interactions: Interactions, min_user_events: int, min_item_events: int) -> Interactions:
    """Keep the largest part in which every user and every item has enough events.

    Dropping an item can make its users rare, and so on: both are dropped until nothing changes.
    The result does not depend on the order of dropping.
    """
    keep_T = np.ones(len(interactions), dtype=bool)
    offsets, items_T = interactions.user_offsets(), _codes(interactions, ITEM)
    _drop_rare(keep_T, offsets, items_T, min_user_events, min_item_events)
    return interactions.filter(keep_T)


def drop_consecutive_repeats(interactions: Interactions) -> Interactions:
    """Keep the first of a user's consecutive events with the same item (and behaviour)."""
    keep_T = np.ones(len(interactions), dtype=bool)
    behaviours_T = _codes(interactions, BEHAVIOUR) if interactions.has(BEHAVIOUR) else None
    _drop_repeats(keep_T, interactions.user_offsets(), _codes(interactions, ITEM), behaviours_T)
    return interactions.filter(keep_T)


def _drop_rare(
    keep_T: Bool[np.ndarray, "T"],
    offsets: Int64[np.ndarray, "_"],
    items_T: Int32[np.ndarray, "T"],
    min_user_events: int,
    min_item_events: int,
) -> None:
    """Take rare users and items out of `keep_T`, until all that are left have enough events."""
    num_items = int(items_T.max(initial=-1)) + 1
    chunks = list(user_chunks(offsets))
    events = [slice(offsets[users.start], offsets[users.stop]) for users in chunks]
    changed = True
    while changed:
        changed = False
        of_user_U = np.add.reduceat(keep_T, offsets[:-1], dtype=np.int64)
        of_item_N = np.zeros(num_items, dtype=np.int64)
        for chunk in events:
            of_item_N += np.bincount(items_T[chunk][keep_T[chunk]], minlength=num_items)
        for users, chunk in zip(chunks, events, strict=True):
            lengths_U = np.diff(offsets[users.start : users.stop + 1])
            enough = np.repeat(of_user_U[users] >= min_user_events, lengths_U)
            enough &= of_item_N[items_T[chunk]] >= min_item_events
            changed |= bool((keep_T[chunk] & ~enough).any())
            keep_T[chunk] &= enough


def _drop_repeats(
    keep_T: Bool[np.ndarray, "T"],
    offsets: Int64[np.ndarray, "_"],
    items_T: Int32[np.ndarray, "T"],
    behaviours_T: Int32[np.ndarray, "T"] | None,
) -> None:
    """Take out of `keep_T` what repeats the user's event before it, of those that are kept."""
    for users in user_chunks(offsets):
        bounds = offsets[users.start : users.stop + 1]
        places = bounds[0] + np.flatnonzero(keep_T[bounds[0] : bounds[-1]])
        owners = np.searchsorted(bounds, places, side="right")
        repeats = owners[1:] == owners[:-1]
        for column_T in (items_T, behaviours_T):
            if column_T is not None:
                values = column_T[places]
                repeats &= values[1:] == values[:-1]
        keep_T[places[1:][repeats]] = False


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
    values = interactions.column(name)  # in chunks: text of more than 2 GiB does not fit into one
    return np.asarray(pc.equal(values.slice(1), values.slice(0, max(0, len(values) - 1))))


def _codes(interactions: Interactions, name: str) -> Int32[np.ndarray, "T"]:
    """Return a column as small numbers, one for each value."""
    encoded = pc.dictionary_encode(interactions.column(name)).unify_dictionaries()
    codes: list[np.ndarray] = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    return np.concatenate(codes) if codes else np.zeros(0, np.int32)
