"""EASE: the linear model from items to items that is hardest to beat for its cost."""

import numpy as np
from jaxtyping import Float32, Float64, Integer
from scipy import sparse
from scipy.linalg import lapack

from idbert.errors import ConfigError
from idbert.evaluation.user_items import HistoryScore, binary_matrix, decayed_matrix
from idbert.rows import FIRST_ITEM

CHUNK_ROWS = 512
"""Rows of a table that are copied at once."""


class Ease(HistoryScore):
    """Score items by the linear map that reconstructs users' histories best, diagonal excepted.

    With X the binary user-item matrix of training, B minimises ||X - X B||^2 + l2 * ||B||^2 under
    the constraint that no item explains itself, diag(B) = 0. In closed form, with
    P = (X^T X + l2 * I)^-1: B_ij = -P_ij / P_jj off the diagonal. A user's scores are the sums of
    B's rows over the items of the user's history, each counted once; or with `decay` over its
    events, weighted by exp(-age / decay) as in `ItemKnn`, so that what was done last counts most.

    Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8.

    Args:
        table_VV: from `ease_table`.
        history_items: the histories of the users to score, end to end, as vocabulary rows.
        history_offsets: where each user's history begins.
        decay: None, or the number of events after which an event's weight has fallen to 1/e.

    Raises:
        ConfigError: decay is not positive.
    """

    def __init__(
        self,
        table_VV: Float32[np.ndarray, "V V"],
        history_items: Integer[np.ndarray, "T"],
        history_offsets: Integer[np.ndarray, "..."],
        *,
        decay: float | None = None,
    ) -> None:
        histories = (history_items, history_offsets, len(table_VV))
        weights_UV = (
            binary_matrix(*histories) if decay is None else decayed_matrix(*histories, decay)
        )
        super().__init__(table_VV, weights_UV)


def ease_table(
    train_items: Integer[np.ndarray, "T"],
    train_offsets: Integer[np.ndarray, "..."],
    vocab_size: int,
    *,
    l2: float,
) -> Float32[np.ndarray, "V V"]:
    """Return B of `Ease`, by Cholesky factors of the Gram matrix in float64.

    The Gram matrix is inverted in the memory that it has: it takes 8 bytes for each pair of items,
    and the result, which is float32, 4 more. Single precision would lose digits: the condition of
    the matrix is its largest eigenvalue over l2, which grows with users and their activity.

    Args:
        train_items: the training histories end to end, as vocabulary rows.
        train_offsets: user u owns `train_items[train_offsets[u] : train_offsets[u + 1]]`.
        vocab_size: V, special rows included; their weights are 0.
        l2: what is added to the diagonal, the strength of the regularisation.

    Raises:
        ConfigError: l2 is not positive.
    """
    if not 0 < l2 < np.inf:
        raise ConfigError(f"l2 is {l2}; give a positive number: without it no inverse need exist.")
    seen_UV = binary_matrix(train_items, train_offsets, vocab_size)
    gram_NN = _gram(seen_UV[:, FIRST_ITEM:])
    gram_NN[np.diag_indices_from(gram_NN)] += l2
    lower_NN = _inverse(gram_NN)
    table_VV = np.zeros((vocab_size, vocab_size), dtype=np.float32)
    weights_NN = table_VV[FIRST_ITEM:, FIRST_ITEM:]
    scale_N = -1 / np.diag(lower_NN)
    for start in range(0, len(lower_NN), CHUNK_ROWS):
        stop = start + CHUNK_ROWS
        # What is above the diagonal is mirrored; the block on the diagonal is made whole first.
        block = lower_NN[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
        rows = lower_NN[start:stop, :stop]
        weights_NN[start:stop, :stop] = rows * scale_N[:stop]
        weights_NN[:start, start:stop] = rows[:, :start].T * scale_N[start:stop]
    np.fill_diagonal(weights_NN, 0)
    return table_VV


def _gram(seen_UN: sparse.csr_array) -> Float64[np.ndarray, "N N"]:
    """Return how many users have both of any two items, in float64."""
    num_items = seen_UN.shape[1]
    gram_NN = np.empty((num_items, num_items))
    seen_NU = seen_UN.T.tocsr()
    for start in range(0, num_items, CHUNK_ROWS):  # counts below 2^24 are exact in float32
        gram_NN[start : start + CHUNK_ROWS] = (
            seen_NU[start : start + CHUNK_ROWS] @ seen_UN
        ).toarray()
    return gram_NN


def _inverse(gram_NN: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, "N N"]:
    """Invert a symmetric positive matrix in its own memory; only the lower half is valid."""
    # To LAPACK, which reads by columns, the upper half of the transposed is the lower half here.
    factor, failed = lapack.dpotrf(gram_NN.T, lower=False, clean=False, overwrite_a=True)
    if not failed:
        inverse, failed = lapack.dpotri(factor, lower=False, overwrite_c=True)
    if failed:
        raise ConfigError(
            "EASE: X^T X + l2 * I cannot be inverted in double precision. Give a larger ease_l2."
        )
    lower_NN: np.ndarray = inverse.T
    return lower_NN
