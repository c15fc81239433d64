"""Masked targets as BERT draws them: a pure function of seed, epoch, sequence and position.

Every draw is a hash of these four numbers, not the next number of a generator. So a sequence gets
the same mask whatever batch, worker or rank it comes in, and resuming needs no state. Items and
words are masked by the same code, `mask_ids`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from idbert.errors import ConfigError
from idbert.inputs.recency import (
    TargetSettings,
    check_recency,
    chosen_at_least_once,
    log_importance,
)
from idbert.rows import FIRST_ITEM, MASK

IGNORED = -100
"""The label of a position without a target, as in torch's cross entropy."""

_SELECT, _REPLACE, _RANDOM, _LAST = range(4)
_DRAWS = 4
"""The independent draws of a position: is it a target, what replaces it, by which id; and one of
a sequence, kept with its first position: is the newest item a target too."""

_NEXT = 1 << 16
"""The purpose of the draws of a next-item model's targets; see `draws`."""


@runtime_checkable
class MaskingShares(Protocol):
    """What items and words are told in the same way."""

    @property
    def probability(self) -> float | int:
        """Chance of every position to be a target."""

    @property
    def mask_share(self) -> float | int:
        """Share of the targets that are replaced by the mask."""

    @property
    def random_share(self) -> float | int:
        """Share of the targets that are replaced at random; the rest stays visible."""


@dataclass(frozen=True)
class MaskingSettings:
    """Which items a model must restore, and what it sees instead of them."""

    probability: float = 0.2
    """Chance of every item to be a target. A sequence without any gets one, drawn at random."""
    mask_share: float = 0.8
    """Share of the targets that are replaced by the mask."""
    random_share: float = 0.1
    """Share of the targets that are replaced by a random item; the rest stays visible."""
    last_probability: float = 0.0
    """Share of the sequences in which the newest item is a target besides those drawn, as when
    recommending, where only the newest is asked for. 1 with probability 0: nothing but that."""
    recency: float | None = None
    """Above 0 and below 1: newer items are targets more often. Of an item of age a (0: the newest)
    the importance is recency^a; probability times the number of items is how often one is drawn by
    importance, with replacement. null: all alike."""

    def __post_init__(self) -> None:
        check_shares(self, "probability", "mask_share", "random_share", "last_probability")
        check_recency(self.recency)


def check_shares(settings: MaskingShares, *names: str) -> None:
    """Refuse named settings that are no shares, and shares that are more than the whole.

    Raises:
        ConfigError: one is outside 0 to 1, or mask_share and random_share together above 1.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; it must be from 0 to 1.")
    if settings.mask_share + settings.random_share > 1 + 1e-9:
        raise ConfigError(
            f"mask_share {settings.mask_share} and random_share {settings.random_share} "
            "are shares of the same targets; together they must not exceed 1."
        )


def mask_items(
    input_ids_BL: Int64[np.ndarray, "B L"],
    lengths_B: Int64[np.ndarray, "B"],
    sequence_numbers_B: Int64[np.ndarray, "B"],
    *,
    settings: MaskingSettings,
    vocab_size: int,
    seed: int,
    epoch: int,
) -> tuple[Int64[np.ndarray, "B L"], Int64[np.ndarray, "B L"]]:
    """Hide some items of every sequence and return what must be restored.

    Only items become targets, never padding or other special rows, and every sequence that holds an
    item has at least one target.

    Args:
        input_ids_BL: vocabulary rows, padded on the right; left as they are.
        lengths_B: real positions of each sequence.
        sequence_numbers_B: what identifies a sequence from epoch to epoch.
        settings: the shares.
        vocab_size: V; random replacements are drawn from the items' rows below it.
        seed: of the run.
        epoch: a new one draws new masks.

    Returns:
        The rows that the model sees, and the labels: the true row at targets, IGNORED elsewhere.

    Source: Devlin et al. 2019 (BERT), section 3.1; Sun et al. 2019 (BERT4Rec), section 3.6; for the
    recency see `recency`.
    """
    places_L = np.arange(input_ids_BL.shape[1])
    maskable_BL = (input_ids_BL >= FIRST_ITEM) & (places_L < lengths_B[:, None])
    key_B = sequence_keys(seed, epoch, sequence_numbers_B)
    newest_BL = places_L == lengths_B[:, None] - 1
    ask_newest_B = _uniform(key_B, _LAST) < settings.last_probability
    importance_BL = None
    if settings.recency is not None:
        importance_BL = log_importance(lengths_B, len(places_L), settings.recency)
    return mask_ids(
        input_ids_BL,
        maskable_BL,
        key_B,
        settings=settings,
        mask_id=MASK,
        random_id=lambda share: (FIRST_ITEM + share * (vocab_size - FIRST_ITEM)).astype(np.int64),
        also_BL=newest_BL & ask_newest_B[:, None],
        log_importance_BL=importance_BL,
    )


def mask_ids(
    input_ids_BL: Int64[np.ndarray, "B L"],
    maskable_BL: Bool[np.ndarray, "B L"],
    key_B: UInt64[np.ndarray, "B"],
    *,
    settings: MaskingShares,
    mask_id: int,
    random_id: Callable[[Float64[np.ndarray, "M"]], Int64[np.ndarray, "M"]],
    groups_BL: Int64[np.ndarray, "B L"] | None = None,
    also_BL: Bool[np.ndarray, "B L"] | None = None,
    log_importance_BL: Float64[np.ndarray, "B L"] | None = None,
) -> tuple[Int64[np.ndarray, "B L"], Int64[np.ndarray, "B L"]]:
    """Hide some ids of every sequence and return what must be restored.

    Every sequence with a maskable position has at least one target.

    Args:
        input_ids_BL: left as they are.
        maskable_BL: positions that may be targets.
        key_B: of `sequence_keys`.
        settings: the shares.
        mask_id: what replaces most targets.
        random_id: turns numbers from 0 to below 1 into the ids that replace some targets.
        groups_BL: positions that are targets together, as the pieces of a word, have the same
            number here: the place of the first of them. None: each stands alone.
        also_BL: maskable positions here are targets besides those drawn.
        log_importance_BL: of `recency.log_importance`, where positions are not all alike; not
            together with groups.

    Returns:
        The ids that the model sees, and the labels: the true id at targets, IGNORED elsewhere.
    """
    places_L = np.arange(input_ids_BL.shape[1])
    key_BL = key_B[:, None] ^ (places_L * _DRAWS).astype(np.uint64)
    draw_BL = _uniform(key_BL, _SELECT)
    if groups_BL is not None:
        draw_BL = np.take_along_axis(draw_BL, groups_BL, axis=1)
    target_BL, draw_BL = _drawn(draw_BL, maskable_BL, settings.probability, log_importance_BL)
    if also_BL is not None:
        target_BL |= maskable_BL & also_BL
    # The smallest draw is a fair choice of one position, or group, where none was drawn.
    without_B = np.flatnonzero(~target_BL.any(axis=1) & maskable_BL.any(axis=1))
    least_B = draw_BL[without_B].argmin(axis=1)
    if groups_BL is None:
        target_BL[without_B, least_B] = True
    else:
        of_least_BL = groups_BL[without_B] == groups_BL[without_B, least_B][:, None]
        target_BL[without_B] = of_least_BL & maskable_BL[without_B]

    labels_BL = np.where(target_BL, input_ids_BL, IGNORED)
    key_M = key_BL[target_BL]
    replace_M = _uniform(key_M, _REPLACE)
    shown_M = np.select(
        [replace_M < settings.mask_share, replace_M < settings.mask_share + settings.random_share],
        [np.int64(mask_id), random_id(_uniform(key_M, _RANDOM))],
        input_ids_BL[target_BL],
    )
    shown_BL = input_ids_BL.copy()
    shown_BL[target_BL] = shown_M
    return shown_BL, labels_BL


def next_targets(
    candidates_BL: Bool[np.ndarray, "B L"],
    lengths_B: Int64[np.ndarray, "B"],
    sequence_numbers_B: Int64[np.ndarray, "B"],
    *,
    settings: TargetSettings,
    seed: int,
    epoch: int,
) -> Bool[np.ndarray, "B L"]:
    """Return which of the positions whose next item is known have a loss.

    Every sequence with a candidate has at least one target. Nothing is hidden from the model.

    Args:
        candidates_BL: positions that may be targets.
        lengths_B: real positions of each sequence.
        sequence_numbers_B: what identifies a sequence from epoch to epoch.
        settings: how many, and how much newer ones are preferred.
        seed: of the run.
        epoch: a new one draws new targets.
    """
    width = candidates_BL.shape[1]
    key_B = sequence_keys(seed, epoch, sequence_numbers_B)
    draw_BL = draws(key_B, _NEXT, width)
    importance_BL = None
    if settings.recency is not None:
        importance_BL = log_importance(lengths_B, width, settings.recency)
    target_BL, draw_BL = _drawn(draw_BL, candidates_BL, settings.probability, importance_BL)
    without_B = np.flatnonzero(~target_BL.any(axis=1) & candidates_BL.any(axis=1))
    target_BL[without_B, draw_BL[without_B].argmin(axis=1)] = True
    return target_BL


def _drawn(
    draw_BL: Float64[np.ndarray, "B L"],
    candidates_BL: Bool[np.ndarray, "B L"],
    probability: float | int,
    log_importance_BL: Float64[np.ndarray, "B L"] | None,
) -> tuple[Bool[np.ndarray, "B L"], Float64[np.ndarray, "B L"]]:
    """Return which candidates are drawn, and the order in which they would be the only one."""
    if log_importance_BL is None:
        draw_BL = np.where(candidates_BL, draw_BL, np.inf)
        return draw_BL < probability, draw_BL
    chance_BL = chosen_at_least_once(log_importance_BL, candidates_BL, probability)
    target_BL: np.ndarray = candidates_BL & (draw_BL < chance_BL)
    # The first to come of independent exponential times is drawn in proportion to the rates.
    with np.errstate(divide="ignore"):  # a draw may be 0
        log_time_BL = np.log(-np.log1p(-draw_BL)) - log_importance_BL
    return target_BL, np.where(candidates_BL, log_time_BL, np.inf)


def sequence_keys(
    seed: int, epoch: int, sequence_numbers_B: Int64[np.ndarray, "B"]
) -> UInt64[np.ndarray, "B"]:
    """Return one key a sequence, unrelated to its key in another epoch or under another seed."""
    run_key = _hash(np.array([seed], dtype=np.uint64))
    epoch_key = _hash(run_key ^ np.uint64(epoch))
    return _hash(epoch_key ^ sequence_numbers_B.astype(np.uint64))


def draws(
    key_B: UInt64[np.ndarray, "B"], purpose: int, num_draws: int
) -> Float64[np.ndarray, "B _"]:
    """Return numbers in [0, 1) for each key, unrelated to those of masks and other purposes.

    Args:
        key_B: of `sequence_keys`.
        purpose: a number from 1 on that tells what the draws are for.
        num_draws: how many each key gets.
    """
    own_B = _hash(key_B ^ np.uint64(purpose << 32))
    return _uniform(own_B[:, None] ^ np.arange(num_draws, dtype=np.uint64), 0)


def _uniform(keys: UInt64[np.ndarray, "..."], draw: int) -> Float64[np.ndarray, "..."]:
    """Return a number in [0, 1) for each key; `draw` tells independent draws of a key apart."""
    return (_hash(keys ^ np.uint64(draw)) >> np.uint64(11)) * 2.0**-53


def _hash(keys: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """Return SplitMix64's output for each key (Steele, Lea, Flood 2014, figure 16)."""
    mixed = keys + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
