"""Which tokens of a long text are kept: arithmetic on lengths, for all texts at once."""

import numpy as np
from jaxtyping import Int64


def shared_budgets(
    first_N: Int64[np.ndarray, "N"], second_N: Int64[np.ndarray, "N"], budget: int
) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
    """Return how many tokens each text of a pair may keep: the longer one is cut first.

    As "longest_first" in tokenizers: what a short text leaves free is the long one's; two long ones
    get half each, and of an odd budget the longer one gets the odd token (the second, if equal).
    """
    short_N, long_N = np.minimum(first_N, second_N), np.maximum(first_N, second_N)
    short_N = np.minimum(short_N, np.maximum(budget // 2, budget - long_N))
    long_N = np.minimum(long_N, budget - short_N)
    swapped_N = first_N > second_N
    return np.where(swapped_N, long_N, short_N), np.where(swapped_N, short_N, long_N)


def kept_ends(
    lengths_N: Int64[np.ndarray, "N"],
    budgets_N: Int64[np.ndarray, "N"],
    truncation: str,
    head_share: float = 0.0,
) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
    """Return how many tokens of each text are kept at its head and at its tail.

    A text within its budget is all head.

    Args:
        lengths_N: tokens of each text.
        budgets_N: the most that may be kept.
        truncation: "tail", "head_tail", or anything else for the head.
        head_share: of the budget, for "head_tail".
    """
    if truncation == "tail":
        head_share = 0.0
    elif truncation != "head_tail":
        head_share = 1.0
    head_N = np.rint(budgets_N * head_share).astype(np.int64)
    too_long_N = lengths_N > budgets_N
    return (
        np.where(too_long_N, head_N, lengths_N),
        np.where(too_long_N, budgets_N - head_N, 0),
    )


def windows(
    lengths_N: Int64[np.ndarray, "N"], width: int, stride: int
) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Cut each text into windows that together hold all of it.

    Every window of a long text is full: the last one is moved back until it ends with the text.

    Returns:
        Of each window the number of its text, where it starts in it, and its length.
    """
    counts_N = 1 + -(-np.maximum(lengths_N - width, 0) // stride)
    rows = np.repeat(np.arange(len(lengths_N)), counts_N)
    first = np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
    starts = (np.arange(len(rows)) - first) * stride
    starts = np.minimum(starts, np.maximum(lengths_N - width, 0)[rows])
    return rows, starts, np.minimum(lengths_N, width)[rows]
