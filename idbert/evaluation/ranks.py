"""Where each user's target stands among all items: full rankings, never sampled ones.

Metrics over sampled candidates do not even keep the order of two models (Krichene & Rendle,
"On Sampled Metrics for Item Recommendation", KDD 2020), so every item of the catalogue is ranked.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from idbert.errors import DataError, ShapeError
from idbert.rows import FIRST_ITEM

Score = Callable[[Int64[np.ndarray, "B"]], Float[Tensor, "B V"]]
"""Whatever scores users: positions (0 .. U-1) in, one score for every vocabulary row out."""

BYTES_PER_SCORE = 12
"""float32 scores as received (4), their masked copy (4), the outcome of comparisons (4)."""


@dataclass(frozen=True)
class Ranking:
    """The outcome of ranking the catalogue for every user.

    Attributes:
        ranks_U: rank of the target from 1; half ranks come from ties.
        top_UK: vocabulary rows of the best K items, best first; -1 where fewer than K are left.
        seen_targets: users whose target was also in their history (it stayed rankable).
    """

    ranks_U: Float64[np.ndarray, "U"]
    top_UK: Int64[np.ndarray, "U K"]
    seen_targets: int


def users_per_chunk(vocab_size: int, memory_mib: int) -> int:
    """Return how many users' float32 scores can be ranked at once within `memory_mib`."""
    return max(1, memory_mib * 2**20 // (vocab_size * BYTES_PER_SCORE))


def target_ranks(
    score: Score,
    targets_U: Integer[np.ndarray, "U"],
    seen_items: Integer[np.ndarray, "T"],
    seen_offsets: Integer[np.ndarray, "_"],
    *,
    vocab_size: int,
    seen_stops: Integer[np.ndarray, "U"] | None = None,
    filter_seen: bool = True,
    first_item: int = FIRST_ITEM,
    top_k: int = 20,
    memory_mib: int = 512,
) -> Ranking:
    """Rank the whole catalogue for every user and find the target's place.

    rank = 1 + (items scored higher) + (other items scored the same) / 2, the mean over all orders
    of the tied items: a constant score gets the middle rank, not the first.

    With `filter_seen`, items of a user's history cannot be recommended, except the target itself:
    if the user came back to an item, the target stays in the ranking and the user is counted in
    `seen_targets`.

    Args:
        score: called with consecutive positions, chunk by chunk. Its tensor is not changed.
        targets_U: the held-out item's vocabulary row, one a user.
        seen_items: the users' whole histories end to end, as vocabulary rows.
        seen_offsets: user u's history is `seen_items[seen_offsets[u] : seen_offsets[u + 1]]`.
        vocab_size: V, special rows included.
        seen_stops: user u's history is `seen_items[seen_offsets[u] : seen_stops[u]]` then, so that
            histories may overlap and have gaps between them.
        filter_seen: leave the history out of the ranking.
        first_item: rows below it are special tokens and are never ranked.
        top_k: K, how many of the best items to keep; at most V.
        memory_mib: for the scores of one chunk of users, beside what `score` itself needs.

    Raises:
        DataError: a target is not an item, an item's score is NaN, or a target's is -inf.
        ShapeError: `score` does not return one row a position and one column a vocabulary row.
    """
    _check_targets(targets_U, first_item, vocab_size)
    num_users = len(targets_U)
    top_k = min(top_k, vocab_size)
    ranks_U = np.empty(num_users, dtype=np.float64)
    top_UK = np.empty((num_users, top_k), dtype=np.int64)
    seen_targets = 0
    chunk = users_per_chunk(vocab_size, memory_mib)
    for start in range(0, num_users, chunk):
        stop = min(start + chunk, num_users)
        received_BV = _received(score, start, stop, vocab_size)
        device = received_BV.device
        if start == 0:  # both are used again for every chunk: fresh pages cost more than the work
            masked_BV = torch.empty(received_BV.shape, dtype=received_BV.dtype, device=device)
            compared_BV = torch.empty(received_BV.shape, device=device)
        scores_BV = masked_BV[: stop - start].copy_(received_BV)
        del received_BV  # before the next chunk's scores are made
        scores_BV[:, :first_item] = -torch.inf

        chunk_targets = targets_U[start:stop].astype(np.int64)
        users_B = torch.arange(stop - start, device=device)
        targets_B = torch.from_numpy(chunk_targets).to(device)
        target_scores_B = scores_BV[users_B, targets_B]
        if filter_seen:
            starts_B = seen_offsets[start:stop]
            stops_B = seen_offsets[start + 1 : stop + 1]
            lengths_B = (stops_B if seen_stops is None else seen_stops[start:stop]) - starts_B
            rows = seen_items[_places(starts_B, lengths_B)].astype(np.int64)
            users = np.repeat(np.arange(stop - start), lengths_B)
            seen_targets += len(np.unique(users[rows == chunk_targets[users]]))
            index = torch.from_numpy(np.stack([users, rows])).to(device)
            scores_BV[index[0], index[1]] = -torch.inf
            scores_BV[users_B, targets_B] = target_scores_B

        best_BK = scores_BV.topk(top_k, dim=1)
        _check_scores(best_BK.values[:, 0], target_scores_B, start)
        top_BK = best_BK.indices.masked_fill(best_BK.values == -torch.inf, -1)
        top_UK[start:stop] = top_BK.cpu().numpy()
        # Comparisons written as float32 add up ten times faster than booleans, and exactly (2^24).
        out_BV = compared_BV[: stop - start]
        greater_B = torch.gt(scores_BV, target_scores_B[:, None], out=out_BV).sum(1).cpu()
        equal_B = torch.eq(scores_BV, target_scores_B[:, None], out=out_BV).sum(1).cpu()
        ranks_U[start:stop] = 1 + greater_B.double() + (equal_B.double() - 1) / 2
    return Ranking(ranks_U, top_UK, seen_targets)


def _places(
    starts_B: Integer[np.ndarray, "B"], lengths_B: Integer[np.ndarray, "B"]
) -> Int64[np.ndarray, "T"]:
    """Return the places of some slices of an array, end to end."""
    before_B = np.cumsum(lengths_B) - lengths_B
    return np.repeat(starts_B - before_B, lengths_B) + np.arange(int(lengths_B.sum()))


def _received(score: Score, start: int, stop: int, vocab_size: int) -> Tensor:
    """Return what `score` says of users start .. stop - 1."""
    with torch.no_grad():
        received_BV = score(np.arange(start, stop, dtype=np.int64))
    expected = (stop - start, vocab_size)
    if tuple(received_BV.shape) != expected:
        raise ShapeError(
            f"score(positions) returned shape {tuple(received_BV.shape)} for {stop - start} "
            f"positions and {vocab_size} vocabulary rows. Return {expected}: a score for every row."
        )
    return received_BV


def _check_targets(targets_U: np.ndarray, first_item: int, vocab_size: int) -> None:
    bad = np.flatnonzero((targets_U < first_item) | (targets_U >= vocab_size))
    if len(bad):
        shown = ", ".join(f"{targets_U[user]} (user {user})" for user in bad[:5])
        raise DataError(
            f"{len(bad)} targets are not item rows ({first_item} to {vocab_size - 1}): {shown}. "
            "Build the vocabulary from the whole table, so that every target is in it."
        )


def _check_scores(best_B: Tensor, target_scores_B: Tensor, start: int) -> None:
    """Refuse what has no rank; topk puts NaN before every number, so `best_B` shows it."""
    bad = best_B.isnan().nonzero()
    if len(bad):
        raise DataError(
            f"{len(bad)} users have NaN among their scores, the first at position "
            f"{start + int(bad[0, 0])}. A ranking needs numbers: look for a diverged training."
        )
    bad = (target_scores_B == -torch.inf).nonzero()
    if len(bad):
        raise DataError(
            f"{len(bad)} targets are scored -inf, the first at position {start + int(bad[0, 0])}. "
            "Leave the filtering of items to target_ranks, which knows the target."
        )
