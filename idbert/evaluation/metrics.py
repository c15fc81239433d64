"""Recall, NDCG and MRR of ranks.

Each target has a ranking of its own, whose ideal has it at rank 1, so that NDCG@k is
1 / log2(rank + 1) up to k and 0 behind, recall@k is the hit rate, and MRR@k is 1 / rank up to k.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from idbert.errors import DataError

CUTOFFS = (1, 5, 10, 20)
"""The ks of recall@k, NDCG@k and MRR@k."""


def per_target_metrics(
    ranks_Q: Float64[np.ndarray, "Q"], ks: Sequence[int] = CUTOFFS
) -> dict[str, Float64[np.ndarray, "Q"]]:
    """Return every target's recall@k, ndcg@k and mrr@k, all between 0 and 1.

    A rank between two whole ones (from ties) counts as it is: rank 10.5 is a miss at k = 10.

    Args:
        ranks_Q: rank of each target, from 1.
        ks: lengths at which the recommendation list is cut.
    """
    values = {
        "recall": np.ones_like(ranks_Q),
        "ndcg": 1 / np.log2(ranks_Q + 1),
        "mrr": 1 / ranks_Q,
    }
    return {
        f"{name}@{k}": np.where(ranks_Q <= k, value_Q, 0.0)
        for name, value_Q in values.items()
        for k in ks
    }


def metrics_at(
    ranks_Q: Float64[np.ndarray, "Q"],
    ks: Sequence[int] = CUTOFFS,
    users_Q: Int64[np.ndarray, "Q"] | None = None,
) -> dict[str, float]:
    """Return the means over users of `per_target_metrics`.

    Args:
        ranks_Q: rank of each target, from 1.
        ks: lengths at which the recommendation list is cut.
        users_Q: see `user_means`.
    """
    values = per_target_metrics(ranks_Q, ks).items()
    return {name: float(user_means(value_Q, users_Q).mean()) for name, value_Q in values}


def user_means(
    values_Q: Float64[np.ndarray, "Q"], users_Q: Int64[np.ndarray, "Q"] | None
) -> Float64[np.ndarray, "U"]:
    """Return the mean over each user's targets, so that all users weigh the same.

    Args:
        values_Q: a value for each target.
        users_Q: whose it is, users numbered from 0; None: each target is another user's.
    """
    if users_Q is None:
        return values_Q
    return np.asarray(np.bincount(users_Q, weights=values_Q) / np.bincount(users_Q))


def check_users(users_Q: Int64[np.ndarray, "Q"], num_targets: int) -> None:
    """Refuse users that are not one for each target, numbered without a gap from 0.

    Raises:
        DataError: they are not.
    """
    if len(users_Q) != num_targets:
        raise DataError(f"There are {num_targets} targets and {len(users_Q)} users of them.")
    if num_targets and (users_Q.min() < 0 or not np.bincount(users_Q).all()):
        raise DataError("Users of targets are numbered from 0, and each of them has a target.")
