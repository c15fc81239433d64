"""Which positions of a history become targets: all alike, or the newer the more often.

Source: Petrov and Macdonald 2022, "Effective and Efficient Training for Sequential Recommendation
using Recency Sampling" (RecSys).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from idbert.errors import ConfigError


@dataclass(frozen=True)
class TargetSettings:
    """At which positions a next-item model has a loss."""

    probability: float = 1.0
    """Chance of every event but the first to be a target; 1: all of them, as in SASRec. A sequence
    without any gets one. Below 1 they are drawn anew each epoch."""

    recency: float | None = None
    """Above 0 and below 1: newer events are targets more often. Of an event of age a (0: the
    newest) the importance is recency^a; probability times the number of events is how often one is
    drawn by importance, with replacement. null: all alike."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"probability is {self.probability}; it must be from 0 to 1.")
        check_recency(self.recency)

    @property
    def are_all(self) -> bool:
        """Whether every event is a target, so that nothing is drawn."""
        return self.probability == 1 and self.recency is None


def check_recency(recency: float | None) -> None:
    """Refuse what is no base of an exponential importance.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if recency is not None and not 0 < recency < 1:
        raise ConfigError(
            f"recency is {recency}; it must be above 0 and below 1, as 0.8, or null, for which all "
            "events are alike."
        )


def log_importance(
    lengths_B: Int64[np.ndarray, "B"], width: int, recency: float
) -> Float64[np.ndarray, "B L"]:
    """Return age * log recency of each position: 0 at the newest, less before it."""
    ages_BL = (lengths_B[:, None] - 1 - np.arange(width)).clip(min=0)
    scores_BL: np.ndarray = ages_BL * np.log(recency)
    return scores_BL


def chosen_at_least_once(
    log_importance_BL: Float64[np.ndarray, "B L"],
    candidates_BL: Bool[np.ndarray, "B L"],
    probability: float | int,
) -> Float64[np.ndarray, "B L"]:
    """Return the chance of each candidate to be among probability * n draws of a sequence's n.

    chance_k = 1 - (1 - p_k)^(probability * n), with p_k the share of k in the importance of all:
    the draws are with replacement, as in the paper, and their number need not be whole.
    """
    importance_BL = np.where(candidates_BL, np.exp(log_importance_BL), 0.0)
    total_B1 = importance_BL.sum(axis=1, keepdims=True)
    share_BL = importance_BL / np.where(total_B1 > 0, total_B1, 1.0)
    num_draws_B1 = probability * candidates_BL.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # a single candidate has share 1
        none_BL = num_draws_B1 * np.log1p(-share_BL)
    chance_BL: np.ndarray = -np.expm1(np.where(np.isnan(none_BL), 0.0, none_BL))
    return chance_BL
