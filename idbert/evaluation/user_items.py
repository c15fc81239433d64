"""Users' histories as a matrix of users and items, and scores that are linear in it."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
from scipy import sparse
from torch import Tensor

from idbert.errors import ConfigError


class HistoryScore:
    """Score items by a table of weights from item to item, summed over the user's history.

    Args:
        table_VV: row i is what item i of a history gives to every item; sparse, or dense, which is
            faster.
        weights_UV: from `binary_matrix` or `decayed_matrix`, one row for each user to score.
    """

    def __init__(
        self,
        table_VV: sparse.csr_array | Float32[np.ndarray, "V V"],
        weights_UV: sparse.csr_array,
    ) -> None:
        self.table_VV, self.weights_UV = table_VV, weights_UV

    def __call__(self, positions_B: Int64[np.ndarray, "B"]) -> Float[Tensor, "B V"]:
        """Return the weighted sums of the table's rows."""
        scores_BV = self.weights_UV[positions_B] @ self.table_VV
        if sparse.issparse(scores_BV):
            scores_BV = scores_BV.toarray()
        return torch.from_numpy(scores_BV)


def binary_matrix(
    items: Integer[np.ndarray, "T"], offsets: Integer[np.ndarray, "..."], vocab_size: int
) -> sparse.csr_array:
    """Return 1 where a user has an item, however often.

    Args:
        items: the histories end to end, as vocabulary rows.
        offsets: user u owns `items[offsets[u] : offsets[u + 1]]`.
        vocab_size: V, special rows included.
    """
    matrix = decayed_matrix(items, offsets, vocab_size, None)
    matrix.data[:] = 1
    return matrix


def decayed_matrix(
    items: Integer[np.ndarray, "T"],
    offsets: Integer[np.ndarray, "..."],
    vocab_size: int,
    decay: float | None,
) -> sparse.csr_array:
    """Return the users' weights of items: sums over an item's events of exp(-age / decay).

    An event's age is the number of the user's events since; it is 0 for the newest.

    Args:
        items: the histories end to end, as vocabulary rows.
        offsets: user u owns `items[offsets[u] : offsets[u + 1]]`.
        vocab_size: V, special rows included.
        decay: the age at which a weight is 1/e; None: every event weighs 1.

    Raises:
        ConfigError: decay is not positive.
    """
    if decay is not None and decay <= 0:
        raise ConfigError(f"decay is {decay}; give a positive number of events, or None.")
    num_events = int(offsets[-1])
    weights_T = np.ones(num_events, dtype=np.float32)
    if decay is not None:
        ages_T = np.repeat(offsets[1:], np.diff(offsets)) - 1 - np.arange(num_events)
        weights_T = np.exp(-ages_T / decay).astype(np.float32)
    shape = (len(offsets) - 1, vocab_size)
    matrix = sparse.csr_array((weights_T, items, offsets), shape=shape, copy=True)
    matrix.sum_duplicates()
    return matrix
