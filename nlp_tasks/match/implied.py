"""Pairs that follow from groups of equal texts, all of them or a limited number by chance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from nlp_tasks.match.groups import TextGraph


@dataclass(frozen=True, eq=False)
class Groups:
    """The texts of each group, end to end.

    Attributes:
        groups_U: each text's group.
        order_U: texts in the order of their groups.
        starts_G: where each group begins in `order_U`.
        sizes_G: texts of each group.
        doubtful_G: groups that imply nothing, since their pairs contradict each other.
    """

    groups_U: Int64[np.ndarray, "_"]
    order_U: Int64[np.ndarray, "_"]
    starts_G: Int64[np.ndarray, "_"]
    sizes_G: Int64[np.ndarray, "_"]
    doubtful_G: Bool[np.ndarray, "_"]

    @classmethod
    def of(cls, groups_U: Int64[np.ndarray, "_"], doubtful_G: Bool[np.ndarray, "_"]) -> "Groups":
        """Sort the texts by their groups."""
        sizes_G = np.bincount(groups_U, minlength=len(doubtful_G))
        order_U = np.argsort(groups_U, kind="stable")
        return cls(groups_U, order_U, np.cumsum(sizes_G) - sizes_G, sizes_G, doubtful_G)

    def text(
        self, groups_T: Int64[np.ndarray, "T"], places_T: Int64[np.ndarray, "T"]
    ) -> Int64[np.ndarray, "T"]:
        """Return the texts at places within groups."""
        return self.order_U[self.starts_G[groups_T] + places_T]


def implied_positives(
    graph: TextGraph, groups: Groups, most: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "_"], int]:
    """Return pairs within groups that are not stated, and how many groups would have given more.

    Args:
        graph: the stated pairs.
        groups: linked by those that are labelled 1.
        most: of one group.
        rng: draws where there are more.

    Returns:
        Keys of pairs, as `TextGraph.keys` makes them, ascending.
    """
    chosen = np.flatnonzero((groups.sizes_G > 2) & ~groups.doubtful_G)
    stated = np.unique(graph.keys())
    ends = groups.groups_U[np.stack(_split(stated, graph))]
    is_inside = (ends[0] == ends[1]) & (np.diff(_split(stated, graph), axis=0)[0] != 0)
    stated_G = np.bincount(ends[0][is_inside], minlength=len(groups.sizes_G))[chosen]
    sizes = groups.sizes_G[chosen]
    totals = sizes * (sizes - 1) // 2
    drawn, flat = _choose(totals, most + stated_G, rng)
    # The pairs (low, high) of a group in the order (0, 1), (0, 2), (1, 2), (0, 3), ...
    high = ((1 + np.sqrt(1 + 8 * flat.astype(np.float64))) / 2).astype(np.int64)
    high -= high * (high - 1) // 2 > flat
    high += (high + 1) * high // 2 <= flat
    low = flat - high * (high - 1) // 2
    of_group = chosen[drawn]
    keys = graph.key(groups.text(of_group, low), groups.text(of_group, high))
    return _new(keys, drawn, stated, most, rng), int((totals - stated_G > most).sum())


def implied_negatives(
    graph: TextGraph,
    groups: Groups,
    links_N: Bool[np.ndarray, "N"],
    most: int,
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, "_"], int]:
    """Return pairs across groups that are not stated, and how many links would have given more.

    Args:
        graph: the stated pairs.
        groups: linked by those that are labelled 1.
        links_N: which pairs say that their two groups differ.
        most: of two groups that differ.
        rng: draws where there are more.

    Returns:
        Keys of pairs, as `TextGraph.keys` makes them, ascending.
    """
    stated = np.unique(graph.keys())
    ends = groups.groups_U[np.stack(_split(np.unique(graph.keys()[links_N]), graph))]
    ends = ends[:, ~groups.doubtful_G[ends].any(axis=0)]
    count = max(len(groups.sizes_G), 1)
    linked, stated_L = np.unique(ends.min(axis=0) * count + ends.max(axis=0), return_counts=True)
    left, right = linked // count, linked % count
    totals = groups.sizes_G[left] * groups.sizes_G[right]
    drawn, flat = _choose(totals, most + stated_L, rng)
    width = groups.sizes_G[right][drawn]
    keys = graph.key(
        groups.text(left[drawn], flat // width), groups.text(right[drawn], flat % width)
    )
    return _new(keys, drawn, stated, most, rng), int((totals - stated_L > most).sum())


def _split(keys: np.ndarray, graph: TextGraph) -> tuple[np.ndarray, np.ndarray]:
    size = max(len(graph.texts), 1)
    return keys // size, keys % size


def _choose(
    totals_G: np.ndarray, most_G: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (group, number below its total) of all, or of `most_G` drawn where that is fewer."""
    counts_G = np.minimum(totals_G, most_G)
    groups_T = np.repeat(np.arange(len(totals_G)), counts_G)
    starts_G = np.cumsum(counts_G) - counts_G
    flat_T = np.arange(len(groups_T)) - starts_G[groups_T]
    for group in np.flatnonzero(counts_G < totals_G):
        drawn = rng.choice(totals_G[group], counts_G[group], replace=False)
        flat_T[starts_G[group] :][: counts_G[group]] = drawn
    return groups_T, flat_T


def _new(
    keys_T: np.ndarray,
    groups_T: np.ndarray,
    stated: np.ndarray,
    most: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the keys that are not stated, `most` of each group by chance."""
    is_new_T = ~np.isin(keys_T, stated)
    keys_T, groups_T = keys_T[is_new_T], groups_T[is_new_T]
    order_T = np.lexsort((rng.random(len(keys_T)), groups_T))
    keys_T, groups_T = keys_T[order_T], groups_T[order_T]
    counts_G = np.bincount(groups_T)
    ranks_T = np.arange(len(keys_T)) - (np.cumsum(counts_G) - counts_G)[groups_T]
    return np.sort(keys_T[ranks_T < most])
