"""Which sequences form a batch: length buckets under a token budget, planned for a whole epoch.

Sequences of like length come together, so that little is padded, and long ones come fewer at a
time, so that every batch costs about the same. The plan of an epoch depends on the seed and the
epoch alone, and its number of batches on neither: training can count its steps in advance and
resume anywhere. Several processes share out each batch, so that they take the steps of one.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from idbert.errors import ConfigError

logger = logging.getLogger(__name__)

_FEWEST_FULL = 4
"""Full batches of a length bucket below which its last one need not be full."""


@dataclass(frozen=True)
class BatchSettings:
    """How sequences are put together into batches."""

    token_budget: int = 2000
    """Positions of a batch, padding included: 10 sequences of length 200, or 100 of length 20.
    Fewer positions make more steps of an epoch. Processes of torchrun share out each batch."""
    max_padding: float = 0.08
    """Largest share of padding among the positions of an epoch; smaller: more, smaller batches."""
    max_sequences: int | None = None
    """Most sequences of a batch, however short they are. Default: as many as the budget holds."""

    def __post_init__(self) -> None:
        if self.token_budget < 1:
            raise ConfigError(f"token_budget is {self.token_budget}; it must be at least 1.")
        if not 0 <= self.max_padding < 1:
            raise ConfigError(f"max_padding is {self.max_padding}; it must be from 0 to below 1.")
        if self.max_sequences is not None and self.max_sequences < 1:
            raise ConfigError(f"max_sequences is {self.max_sequences}; it must be at least 1.")


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """What a data set needs to know to build one batch, wherever it does so.

    Attributes:
        epoch: for draws that change from epoch to epoch.
        sequences: their places in the `Sequences`.
        width: positions that they are padded to, the same in all batches of a length bucket, so
            that few sizes of products occur; 0: to the longest of them.
        is_spare: whether the batch has fewer sequences than there are processes and this one has
            none of its own; it is given one of another's, which must not count.
        number: its place among the batches of an epoch, the same in all processes.
    """

    epoch: int
    sequences: Int64[np.ndarray, "B"]
    width: int = 0
    is_spare: bool = False
    number: int = 0


class BatchPlan(Sampler[PlannedBatch]):
    """A batch sampler whose epochs are permutations of one another.

    In every epoch each sequence comes exactly once over all ranks, shuffled within its bucket; the
    batches of a bucket differ by at most one sequence, and are mostly full; their order is
    shuffled. The ranks
    share out each batch: n sequences each, or one more. Together they have the batches that one
    process would have, so that the number of processes changes only how long a step takes.

    Args:
        lengths_U: positions that each sequence needs; those of length 0 are left out.
        settings: budget and padding.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: no sequence to train on, fewer than processes, or one above the budget.
    """

    def __init__(
        self,
        lengths_U: Int64[np.ndarray, "U"],
        settings: BatchSettings,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._order_U = np.argsort(lengths_U, kind="stable")[np.count_nonzero(lengths_U == 0) :]
        self._seed, self._rank, self.world_size = seed, rank, world_size
        self._check(lengths_U, settings)
        self._epoch = 0

        sorted_U = lengths_U[self._order_U]
        stops = _bucket_stops(sorted_U, settings.max_padding)
        self._widths = sorted_U[stops - 1]
        self._stops = _whole_batches(stops, self._widths, sorted_U, settings)
        sizes = np.diff(self._stops, prepend=0)
        self._batches = -(-sizes // _sequences_of_a_batch(self._widths, settings))
        self.largest = int((-(-sizes // self._batches) * self._widths).max())
        """Positions of the largest batch, padding included, of all ranks together."""
        self.padding = 1 - float(sorted_U.sum() / (sizes * self._widths).sum())
        """Share of padding in an epoch."""
        logger.info(
            "%d sequences (%d too short to train on) in %d length buckets, %d batches an epoch, "
            "%.1f %% padding",
            len(sorted_U),
            len(lengths_U) - len(sorted_U),
            len(sizes),
            self._batches.sum(),
            100 * self.padding,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration plans."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches, the same for every epoch and rank."""
        return int(self._batches.sum())

    def __iter__(self) -> Iterator[PlannedBatch]:
        """Yield this rank's share of each batch of the chosen epoch."""
        rng = np.random.default_rng([self._seed, self._epoch])
        batches: list[np.ndarray] = []
        for bucket, count in zip(
            np.split(self._order_U, self._stops[:-1]), self._batches, strict=True
        ):
            batches += np.array_split(rng.permutation(bucket), count)
        widths = np.repeat(self._widths, self._batches)
        for place in rng.permutation(len(batches)):
            share = np.array_split(batches[place], self.world_size)[self._rank]
            is_spare = len(share) == 0
            share = batches[place][:1] if is_spare else share
            yield PlannedBatch(self._epoch, share, int(widths[place]), is_spare, int(place))

    def _check(self, lengths_U: Int64[np.ndarray, "U"], settings: BatchSettings) -> None:
        if len(self._order_U) == 0:
            raise ConfigError(
                f"none of the {len(lengths_U)} sequences is long enough to train on. "
                "Give users with more events, or more texts."
            )
        if len(self._order_U) < self.world_size:
            raise ConfigError(
                f"{len(self._order_U)} sequences cannot be shared out among {self.world_size} "
                "processes. Start fewer."
            )
        longest = lengths_U.max()
        if longest > settings.token_budget:
            raise ConfigError(
                f"the longest sequence needs {longest} positions, the token budget is "
                f"{settings.token_budget}. Raise --batches.token_budget, or shorten them with "
                "--sequences.max_length (texts: --text.max_length)."
            )


def _bucket_stops(sorted_U: Int64[np.ndarray, "U"], max_padding: float) -> Int64[np.ndarray, "N"]:
    """Cut ascending lengths into as few buckets as keep the epoch's padding within its share.

    With G buckets, the cuts that need the fewest positions are found by dynamic programming over
    the lengths at which a bucket may end; G grows until the padding fits.

    Returns:
        Where each bucket ends in `sorted_U`.
    """
    allowed = sorted_U.sum() / (1 - max_padding)
    edges, stops = _possible_edges(sorted_U, max_padding)
    starts = np.concatenate([[0], stops[:-1]])
    # positions[i, j]: of a bucket that holds all lengths from above edge i - 1 up to edge j.
    positions = np.where(starts[:, None] < stops, (stops - starts[:, None]) * edges, np.inf)
    fewest = positions[0]
    first_edges: list[np.ndarray] = []  # of the last of 2, 3, ... buckets, by where that one ends
    while fewest[-1] > allowed and len(first_edges) < len(edges) - 1:
        with_one_more = positions + np.concatenate([[np.inf], fewest[:-1]])[:, None]
        first_edges.append(with_one_more.argmin(axis=0))
        fewest = with_one_more.min(axis=0)

    last_edges = [len(edges) - 1]
    for first_edge in reversed(first_edges):
        last_edges.append(int(first_edge[last_edges[-1]]) - 1)
    return stops[last_edges[::-1]]


def _possible_edges(
    sorted_U: Int64[np.ndarray, "U"], max_padding: float
) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
    """Return lengths at which a bucket may end, and where they end in `sorted_U`.

    Lengths closer than half of `max_padding` are not told apart: if all the edges were used, half
    of the padding allowed would remain, and there are few of them however long the sequences are.
    """
    edges, counts = np.unique(sorted_U, return_counts=True)
    stops = np.cumsum(counts)
    if max_padding > 0:
        group = np.floor(np.log(edges) / np.log1p(max_padding / 2))
        longest = np.flatnonzero(np.diff(group, append=np.inf))
        edges, stops = edges[longest], stops[longest]
    return edges, stops


def _whole_batches(
    stops: Int64[np.ndarray, "N"],
    widths: Int64[np.ndarray, "N"],
    sorted_U: Int64[np.ndarray, "U"],
    settings: BatchSettings,
) -> Int64[np.ndarray, "N"]:
    """Let all batches of a bucket be full: what remains of it goes into the next longer one.

    So few shapes of batches occur; where there is room for it in the share of padding. The longest
    bucket keeps what remains, and so does one of few batches, whose number would change much.

    Returns:
        Where each bucket ends in `sorted_U`.
    """
    room = sorted_U.sum() / (1 - settings.max_padding)
    room -= (np.diff(stops, prepend=0) * widths).sum()
    full = _sequences_of_a_batch(widths, settings)
    start, moved = 0, stops.copy()
    for bucket in range(len(stops) - 1):
        remaining = (stops[bucket] - start) % full[bucket]
        cost = remaining * (widths[bucket + 1] - widths[bucket])
        if cost <= room and (stops[bucket] - start) // full[bucket] >= _FEWEST_FULL:
            room -= cost
            moved[bucket] -= remaining
        start = moved[bucket]
    return moved


def _sequences_of_a_batch(
    widths: Int64[np.ndarray, "N"], settings: BatchSettings
) -> Int64[np.ndarray, "N"]:
    """Return how many sequences of each width the budget holds."""
    most: np.ndarray = settings.token_budget // widths
    if settings.max_sequences is not None:
        most = np.minimum(most, settings.max_sequences)
    return most
