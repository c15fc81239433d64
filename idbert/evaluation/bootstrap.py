"""Bootstrap intervals over users: how far a mean would move with other users of the same kind."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse

from idbert.errors import ConfigError, ShapeError

Key = TypeVar("Key")

RESAMPLES = 1000
LEVEL = 0.95
CHUNK_BYTES = 32 * 2**20
"""Memory for the draws of one chunk of resamples; the counts of the draws take as much again."""


class Interval(NamedTuple):
    """A confidence interval of a mean over users."""

    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean difference of two models over the same users, and its confidence interval."""

    difference: float
    low: float
    high: float


def intervals(
    values: Mapping[Key, Float64[np.ndarray, "U"]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[Key, Interval]:
    """Return the percentile bootstrap interval of the mean of each named array of user values.

    All arrays are resampled together, so that many metrics cost little more than one.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Args:
        values: one value a user, for each metric; all over the same users.
        resamples: samples of U users drawn with replacement.
        level: share of the resampled means inside the interval.
        seed: the same seed gives the same resamples.

    Raises:
        ConfigError: resamples or level is out of range.
        ShapeError: there are no users.
    """
    stacked = np.stack(list(values.values()), axis=1)
    if len(stacked) == 0:
        raise ShapeError("There are no users to resample: values are empty. Evaluate at least one.")
    means = resampled_means(stacked, resamples, seed)
    return {
        name: percentile_interval(drawn, level) for name, drawn in zip(values, means.T, strict=True)
    }


def interval(
    values_U: Float64[np.ndarray, "U"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of one mean; see `intervals`."""
    return intervals({"": values_U}, resamples=resamples, level=level, seed=seed)[""]


def paired(
    a_U: Float64[np.ndarray, "U"],
    b_U: Float64[np.ndarray, "U"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> PairedDifference:
    """Return the mean of a - b with its interval, both models resampled with the same users.

    Pairing removes what the users have in common (some are easy for every model), so that it finds
    differences which two separate intervals would hide.

    Args:
        a_U: one model's value for each user.
        b_U: the other's, for the same users in the same order.
        resamples: samples of U users drawn with replacement.
        level: share of the resampled differences inside the interval.
        seed: the same seed gives the same resamples.
    """
    pairs = {"": (a_U, b_U)}
    return all_paired(pairs, resamples=resamples, level=level, seed=seed)[""]


def all_paired(
    pairs: Mapping[Key, tuple[Float64[np.ndarray, "U"], Float64[np.ndarray, "U"]]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[Key, PairedDifference]:
    """Return `paired` of each pair; the users are drawn once for all of them."""
    differences = {key: a_U - b_U for key, (a_U, b_U) in pairs.items()}
    if not differences:
        return {}
    bounds = intervals(differences, resamples=resamples, level=level, seed=seed)
    return {
        key: PairedDifference(float(difference_U.mean()), *bounds[key])
        for key, difference_U in differences.items()
    }


def resampled_means(
    values: np.ndarray | sparse.csr_array, resamples: int, seed: int
) -> Float64[np.ndarray, "_ _"]:
    """Return the means over users of each resample: [users, metrics] -> [resamples, metrics]."""
    size = values.shape[0]
    draws = drawn_counts(size, resamples, seed, chunk_bytes=CHUNK_BYTES)
    return np.concatenate([counts @ values / size for counts in draws])


def drawn_counts(
    size: int, resamples: int, seed: int, *, chunk_bytes: int
) -> Iterator[Int64[np.ndarray, "_ _"]]:
    """Yield how often each of `size` rows is drawn, with replacement, in chunks of resamples.

    Args:
        size: rows to draw from, and to draw.
        resamples: rows of all chunks together.
        seed: the same seed draws the same rows.
        chunk_bytes: memory of a chunk; the draws do not depend on it.

    Raises:
        ConfigError: resamples is out of range.
    """
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; give 1 or more, 1000 as a rule.")
    rng = np.random.default_rng(seed)
    chunk = max(1, chunk_bytes // (8 * size))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(size, size=(rows, size)) + np.arange(rows)[:, None] * size
        yield np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)


def percentile_interval(drawn: Float64[np.ndarray, "_"], level: float | int = LEVEL) -> Interval:
    """Return the bounds between which a share of the resampled values lies.

    Raises:
        ConfigError: level is out of range.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; give a share between 0 and 1, such as 0.95.")
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(low), float(high))
