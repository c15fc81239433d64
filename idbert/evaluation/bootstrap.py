"""Bootstrap intervals over users: how far a mean would move with other users of the same kind."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from idbert.errors import ConfigError, ShapeError

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
    values: Mapping[str, Float64[np.ndarray, "U"]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
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
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; give 1 or more, 1000 as a rule.")
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; give a share between 0 and 1, such as 0.95.")
    stacked = np.stack(list(values.values()), axis=1)
    if len(stacked) == 0:
        raise ShapeError("There are no users to resample: values are empty. Evaluate at least one.")
    means = resampled_means(stacked, resamples, seed)
    tail = (1 - level) / 2
    lows, highs = np.quantile(means, [tail, 1 - tail], axis=0)
    return {
        name: Interval(float(low), float(high))
        for name, low, high in zip(values, lows, highs, strict=True)
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
    low, high = interval(a_U - b_U, resamples=resamples, level=level, seed=seed)
    return PairedDifference(float((a_U - b_U).mean()), low, high)


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the means over users of each resample: [users, metrics] -> [resamples, metrics]."""
    rng = np.random.default_rng(seed)
    num_users = len(values)
    chunk = max(1, CHUNK_BYTES // (8 * num_users))
    means = []
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        draws = rng.integers(num_users, size=(rows, num_users))
        draws += np.arange(rows)[:, None] * num_users
        counts = np.bincount(draws.ravel(), minlength=rows * num_users).reshape(rows, num_users)
        means.append(counts @ values / num_users)
    return np.concatenate(means)
