"""Nearest neighbours of all vectors among one another: exact, by blocks of one large product."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from tqdm import tqdm

from idbert.errors import ConfigError, DataError
from idbert.nn.fast_inference import PackedProduct

ROWS_AT_ONCE, COLUMNS_AT_ONCE = 256, 16_384
"""Of a block of scores: 16 MiB, which a processor's cache holds."""
_COLUMNS_OF_HALF = 2048
"""Where one half of the scores is enough; narrower blocks fit closer to the diagonal."""
_GROUP = 64
"""Neighbouring scores of which first only the best is looked at."""


def unit_vectors(vectors_ND: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "N D"]:
    """Return the vectors with length 1, so that inner products are cosines; zeros stay zeros."""
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray = vectors_ND / np.maximum(lengths_N, np.finfo(np.float32).tiny)
    return unit_ND


def all_pairs_neighbours(
    vectors_ND: Float32[np.ndarray, "N D"],
    k: int = 1,
    *,
    cosine: bool = True,
    device: str = "cpu",
    progress: bool = False,
) -> tuple[Float32[np.ndarray, "N K"], Int64[np.ndarray, "N K"]]:
    """Return the k nearest other vectors of each vector, best first; nothing is approximated.

    There are never more than 256 x 16,384 scores at a time. Of 64 neighbouring scores first the
    largest is taken; the best k can only lie where the k largest of these are.

    Args:
        vectors_ND: one a row.
        k: neighbours of each; the vector itself is none, an equal one is.
        cosine: whether vectors are first brought to length 1; else inner products are ranked.
        device: where it is computed.
        progress: show a progress bar on stderr, if that is a terminal.

    Returns:
        Scores and rows.

    Raises:
        ConfigError: k is below 1.
        DataError: there are not k other vectors, or one is not finite.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1.")
    if k >= len(vectors_ND):
        raise DataError(f"{len(vectors_ND)} vectors have no {k} neighbours each. Lower k.")
    num = len(vectors_ND)
    scores_NK = torch.full((num, k), -torch.inf, device=device)
    rows_NK = torch.full((num, k), -1, dtype=torch.int64, device=device)
    for rows, first, scores in score_blocks(
        vectors_ND, cosine=cosine, device=device, progress=progress
    ):
        best, places = _best(scores, k)
        both = torch.cat([scores_NK[rows], best], dim=1)
        rows_of = torch.cat([rows_NK[rows], places + first], dim=1)
        scores_NK[rows], kept = both.topk(k, dim=1)
        rows_NK[rows] = rows_of.gather(1, kept)
    return scores_NK.cpu().numpy(), rows_NK.cpu().numpy()


@torch.inference_mode()
def score_blocks(
    vectors_ND: Float32[np.ndarray, "N D"],
    *,
    cosine: bool,
    upper: bool = False,
    device: str = "cpu",
    progress: bool = False,
) -> Iterator[tuple[slice, int, Float32[Tensor, "_ _"]]]:
    """Yield the inner products of all pairs, block by block; those of vectors with themselves -inf.

    Args:
        vectors_ND: one a row.
        cosine: whether vectors are first brought to length 1.
        upper: leave blocks out in which no row is before a column: each pair then comes in one
            order only (or in both, near the diagonal).
        device: where it is computed.
        progress: show a progress bar on stderr, if that is a terminal.

    Yields:
        The rows, the first column, and the scores.

    Raises:
        DataError: a vector is not finite.
    """
    wrong = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(vectors_ND)} vectors hold NaN or infinity, the first in row "
            f"{wrong[0]}. Train the model again, with a lower learning rate."
        )
    if cosine:
        vectors_ND = unit_vectors(vectors_ND)
    num = len(vectors_ND)
    vectors = torch.from_numpy(np.ascontiguousarray(vectors_ND)).to(device)
    step = _COLUMNS_OF_HALF if upper else COLUMNS_AT_ONCE
    tiles = [(first, min(first + step, num)) for first in range(0, num, step)]
    total = sum((stop - first) * (stop if upper else num) for first, stop in tiles)
    packs = device == "cpu" and PackedProduct.is_available()
    with tqdm(total=total, unit="pair", unit_scale=True, disable=None if progress else True) as bar:
        for first, stop in tiles:
            columns = vectors[first:stop]
            packed = PackedProduct(columns) if packs else None
            last = stop if upper else num
            for start in range(0, last, ROWS_AT_ONCE):
                rows = slice(start, min(start + ROWS_AT_ONCE, last))
                queries = vectors[rows]
                scores = queries @ columns.T if packed is None else packed(queries)
                low, high = max(rows.start, first), min(rows.stop, stop)
                if low < high:
                    own = scores[low - rows.start : high - rows.start, low - first : high - first]
                    own.diagonal().fill_(-torch.inf)
                yield rows, first, scores
                bar.update(scores.numel())


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the best k of each row, or all of them, and their columns."""
    rows, width = scores.shape
    whole = width // _GROUP * _GROUP
    if whole < 4 * _GROUP * k:
        best = scores.topk(min(k, width), dim=1)
        return best.values, best.indices
    largest = scores[:, :whole].view(rows, -1, _GROUP).amax(dim=2)
    groups = largest.topk(k, dim=1, sorted=False).indices
    offsets = torch.arange(_GROUP, device=scores.device)
    columns = (groups[:, :, None] * _GROUP + offsets).flatten(1)
    rest = torch.arange(whole, width, device=scores.device).expand(rows, -1)
    columns = torch.cat([columns, rest], dim=1)
    values, places = scores.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, places)
