"""What pairs imply: A = B and B = C give A = C; A = B and B != C give A != C."""

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.groups import TextGraph, is_positive, numbered
from nlp_tasks.match.implied import Groups, implied_negatives, implied_positives
from nlp_tasks.match.pairs import NO_ROW, PairExamples
from nlp_tasks.tables import show

logger = logging.getLogger(__name__)
SHOWN = 5


@dataclass(frozen=True)
class ClosureSettings:
    """Which implied pairs are added, and what becomes of pairs that contradict each other."""

    implied: Literal["both", "positive", "negative"] = "both"
    """Which implied pairs are added."""
    max_pairs: int = 100
    """At most so many are added of one group of equal texts, and of two groups that differ."""
    contradictions: Literal["leave_out", "refuse"] = "leave_out"
    """What is done about a pair labelled 0 whose texts are the same by way of others."""

    def __post_init__(self) -> None:
        if self.max_pairs < 1:
            raise ConfigError(f"max_pairs is {self.max_pairs}; it must be at least 1.")


@dataclass(frozen=True)
class Contradiction:
    """A pair labelled 0 whose two texts are the same by way of other pairs.

    Attributes:
        row: its place in the source, from 0.
        texts: from its first text, over those between, to its second.
        rows: of the pairs that link each text to the next.
    """

    row: int
    texts: tuple[str, ...]
    rows: tuple[int, ...]

    def __str__(self) -> str:
        """Say it in words, with rows from 1."""
        ends = f"row {self.row + 1:,}: {show(self.texts[0])} is not {show(self.texts[-1])}"
        if not self.rows:
            return f"{ends}, which is the same text"
        linked = ", ".join(f"{row + 1:,}" for row in self.rows)
        return f"{ends}, but it is by row{'s' if len(self.rows) > 1 else ''} {linked}"


@dataclass(frozen=True)
class Closure:
    """What was found when pairs were closed.

    Attributes:
        groups: of two or more texts that are all the same.
        largest: texts in the largest.
        implied_positives: pairs added with label 1.
        implied_negatives: pairs added with label 0.
        limited: groups, and pairs of groups, that would have given more than they may.
        contradictions: pairs labelled 0 whose texts are the same by way of others.
        left_out: rows that were left out for it, from 0.
    """

    groups: int
    largest: int
    implied_positives: int
    implied_negatives: int
    limited: int
    contradictions: tuple[Contradiction, ...]
    left_out: tuple[int, ...]


def close_transitively(
    examples: PairExamples,
    settings: ClosureSettings = ClosureSettings(),  # noqa: B008 (frozen)
    *,
    seed: int = 0,
) -> tuple[PairExamples, Closure]:
    """Add the pairs that are implied by others, and take out those that contradict them.

    Texts linked by pairs labelled 1 are a group, whose texts are all the same; a pair labelled 0
    between two groups says that each text of the one differs from each of the other. A pair
    labelled 0 inside a group is a contradiction: it is left out, and where the same two texts are
    also labelled 1, so is that; and since nobody knows which link of the group is wrong, the
    group implies nothing (unless it is one text that is said to differ from itself).

    Args:
        examples: of kind "binary", or "none" (where all is labelled 1).
        settings: what is added.
        seed: which pairs are added of groups that imply too many.

    Returns:
        The pairs kept, in their order, then the implied ones, whose `rows` are NO_ROW; and what
        was found.

    Raises:
        ConfigError: the pairs are of another kind, have hard negatives, or no negatives where
            only such are wanted.
        DataError: there are contradictions, and they are to be refused.
    """
    positive_N = is_positive(examples)
    if examples.negatives is not None:
        raise ConfigError("pairs are closed before they get hard negatives, which could not hold.")
    if examples.kind == "none" and settings.implied == "negative":
        raise ConfigError("pairs without labels imply no negatives. Set implied to positive.")
    graph = TextGraph.of(examples)
    groups_U = graph.groups(positive_N)
    inside_N = ~positive_N & (groups_U[graph.first_N] == groups_U[graph.second_N])
    contradictions = _contradictions(examples, graph, positive_N, inside_N)
    if contradictions:
        _report(examples, contradictions, settings)
    keys_N = graph.keys()
    left_out_N = np.isin(keys_N, keys_N[inside_N])
    doubtful_G = np.zeros(groups_U.max(initial=-1) + 1, bool)
    # A text that is said to differ from itself casts doubt on that row alone.
    doubtful_N = inside_N & (graph.first_N != graph.second_N)
    doubtful_G[groups_U[graph.first_N[doubtful_N]]] = True

    rng = np.random.default_rng(seed)
    groups = Groups.of(groups_U, doubtful_G)
    found, limited = [], 0
    if settings.implied != "negative":
        keys, over = implied_positives(graph, groups, settings.max_pairs, rng)
        found.append((keys, 1))
        limited += over
    if settings.implied != "positive" and not positive_N.all():
        links_N = ~positive_N & ~inside_N
        keys, over = implied_negatives(graph, groups, links_N, settings.max_pairs, rng)
        found.append((keys, 0))
        limited += over
    closed = _with_implied(examples.take(np.flatnonzero(~left_out_N)), graph.texts, found)
    several_G = groups.sizes_G[groups.sizes_G > 1]
    closure = Closure(
        groups=len(several_G),
        largest=int(several_G.max(initial=1)),
        implied_positives=sum(len(keys) for keys, label in found if label),
        implied_negatives=sum(len(keys) for keys, label in found if not label),
        limited=limited,
        contradictions=contradictions,
        left_out=tuple(examples.rows[left_out_N].tolist()),
    )
    logger.info(
        "%s: %s groups of equal texts imply %s pairs that are the same and %s that are not",
        examples.source, f"{closure.groups:,}", f"{closure.implied_positives:,}",
        f"{closure.implied_negatives:,}",
    )  # fmt: skip
    return closed, closure


def _contradictions(
    examples: PairExamples, graph: TextGraph, positive_N: np.ndarray, inside_N: np.ndarray
) -> tuple[Contradiction, ...]:
    """Return each pair labelled 0 inside a group, with the shortest chain that says otherwise."""
    if not inside_N.any():
        return ()
    links = graph.links(positive_N)
    keys_N, size = graph.keys(), len(graph.texts)
    keys, places = np.unique(keys_N[positive_N], return_index=True)
    rows = examples.rows[positive_N][places]

    def chain(first: int, second: int) -> Contradiction:
        _, before = breadth_first_order(links, first, directed=False, return_predecessors=True)
        path = [second]
        while path[-1] != first:
            path.append(int(before[path[-1]]))
        path.reverse()
        steps = np.array([path[:-1], path[1:]])
        wanted = steps.min(axis=0) * size + steps.max(axis=0)
        by = rows[np.searchsorted(keys, wanted)].tolist()
        return Contradiction(0, tuple(graph.texts[path]), tuple(by))

    return tuple(
        replace(
            chain(int(graph.first_N[place]), int(graph.second_N[place])),
            row=int(examples.rows[place]),
        )
        for place in np.flatnonzero(inside_N)
    )


def _report(
    examples: PairExamples, contradictions: tuple[Contradiction, ...], settings: ClosureSettings
) -> None:
    listed = "\n".join(f"  {one}" for one in contradictions[:SHOWN])
    first = "" if len(contradictions) <= SHOWN else f", the first {SHOWN}"
    counted = (
        f"{examples.source}: {len(contradictions):,} pairs contradict others{first}:\n{listed}"
    )
    if settings.contradictions == "refuse":
        raise DataError(f"{counted}\nMend the labels, or set contradictions to leave_out.")
    logger.warning("%s\nThey are left out, and their groups imply nothing.", counted)


def _with_implied(
    kept: PairExamples, texts: np.ndarray, found: list[tuple[np.ndarray, int]]
) -> PairExamples:
    keys = np.concatenate([keys for keys, _ in found]) if found else np.zeros(0, np.int64)
    targets = kept.targets
    if targets is not None:
        implied = [np.full(len(keys), label, np.int64) for keys, label in found]
        targets = np.concatenate([targets, *implied])
    return replace(
        kept,
        firsts=[*kept.firsts, *texts[keys // max(len(texts), 1)]],
        seconds=[*kept.seconds, *texts[keys % max(len(texts), 1)]],
        targets=targets,
        rows=np.concatenate([kept.rows, np.full(len(keys), NO_ROW, np.int64)]),
    )


def split_by_component(
    examples: PairExamples, share: float, seed: int = 0
) -> tuple[PairExamples, PairExamples]:
    """Split pairs in two, so that no text, and no pair that they imply, stands on both sides.

    Pairs that have a text in common, or are linked by other pairs, whatever their labels and hard
    negatives included, come to the same side.

    Args:
        examples: of any kind.
        share: of the pairs that the second part is to have; it gets at most so many.
        seed: the same seed gives the same parts.

    Returns:
        The two parts, each in the order of the pairs.

    Raises:
        ConfigError: share is not between 0 and 1.
        DataError: the pairs hang together so much that one part would be empty.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share is {share}; give a number between 0 and 1, such as 0.1.")
    components_N = _components(examples)
    sizes = np.bincount(components_N) if len(examples) else np.zeros(0, np.int64)
    room = int(share * len(examples))
    order = np.random.default_rng(seed).permutation(len(sizes))
    held = np.zeros(len(sizes), bool)
    while room > 0:
        order = order[~held[order] & (sizes[order] <= room)]
        fits = order[np.cumsum(sizes[order]) <= room]
        if len(fits) == 0:
            break
        held[fits] = True
        room -= int(sizes[fits].sum())
    held_N = held[components_N]
    if not held_N.any() or held_N.all():
        largest = int(sizes.max(initial=0))
        raise DataError(
            f"{examples.source}: {len(examples):,} pairs cannot be split with {share:g} of them "
            f"held out: they make {len(sizes):,} groups with no text in common, the largest of "
            f"{largest:,} pairs. Change the share, or hold out a file of your own."
        )
    logger.info(
        "%s: %s of %s pairs held out, without a text in common with the rest",
        examples.source, f"{int(held_N.sum()):,}", f"{len(examples):,}",
    )  # fmt: skip
    return examples.take(np.flatnonzero(~held_N)), examples.take(np.flatnonzero(held_N))


def _components(examples: PairExamples) -> np.ndarray:
    """Return each pair's component; pairs with a text in common are of one."""
    lists = examples.negatives or []
    others = [text for negatives in lists for text in negatives]
    owners_T = np.repeat(np.arange(len(lists)), [len(negatives) for negatives in lists])
    codes, size = numbered([*examples.firsts, *examples.seconds, *others])
    count = len(examples)
    first_N = codes[:count]
    ends = np.concatenate([codes[count : 2 * count], codes[2 * count :]])
    starts = np.concatenate([first_N, first_N[owners_T]])
    links = csr_array((np.ones(len(ends), np.int8), (starts, ends)), shape=(size, size))
    of_text = connected_components(links, directed=False)[1]
    return np.unique(of_text[first_N], return_inverse=True)[1]
