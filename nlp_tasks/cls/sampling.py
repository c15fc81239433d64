"""Which examples to train on: classes made less uneven, and parts that are held out.

All of it is a function of the examples and a seed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from idbert.errors import ConfigError, DataError
from nlp_tasks.cls.examples import Examples

QUANTILES = 10
"""Numbers are told apart by the tenth of all rows that they belong to."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SamplingSettings:
    """How uneven the classes of the training examples may be."""

    method: Literal["none", "down", "over"] = "none"
    """down leaves out examples of frequent classes, over repeats those of rare ones."""
    ratio: float | int = 1
    """How many times as many examples the most frequent class may have as the rarest."""

    def __post_init__(self) -> None:
        if self.method not in ("none", "down", "over"):
            raise ConfigError(
                f"There is no sampling method '{self.method}'. Choose from: none, down, over."
            )
        if not 1 <= self.ratio < float("inf"):
            raise ConfigError(f"ratio is {self.ratio}; give 1 (all classes alike) or more.")
        if self.method == "none" and self.ratio != 1:
            raise ConfigError("ratio acts only where method is down or over.")


def sample_rows(
    examples: Examples, settings: SamplingSettings, *, seed: int = 0
) -> Int64[np.ndarray, "_"]:
    """Choose the examples to train on, so that classes are at most `ratio` times as frequent.

    With n_c examples of class c, those of class c are brought to

        down: min(n_c, ratio * min n)      without repetition
        over: max(n_c, max n / ratio)      every example as often as any other, or once more

    rounded up. Classes without examples do not count.

    Args:
        examples: the training examples, with one label each.
        settings: the method.
        seed: the same seed chooses the same examples.

    Returns:
        Positions in ascending order, for `examples.take`.

    Raises:
        ConfigError: classes are to be sampled where there are several labels a row, or numbers.
    """
    positions = np.arange(len(examples), dtype=np.int64)
    if settings.method == "none":
        return positions
    targets_N = examples.targets
    if examples.labels is None or targets_N is None or examples.labels.kind != "single":
        kind = "unknown" if examples.labels is None else examples.labels.kind
        raise ConfigError(
            f"sampling.method is {settings.method}, which needs one label a row, and the labels "
            f"are of kind {kind}. Set it to none."
        )
    counts = np.bincount(targets_N, minlength=examples.labels.num_outputs)
    present = counts[counts > 0]
    if settings.method == "down":
        wanted = np.minimum(counts, int(np.ceil(settings.ratio * present.min())))
    else:
        wanted = np.maximum(counts, int(np.ceil(present.max() / settings.ratio)))
    # The rank of each example within its class, in random order: class c keeps the ranks below
    # its number, or repeats its examples in the order of their ranks until it has that number.
    order = np.lexsort((np.random.default_rng(seed).random(len(examples)), targets_N))
    starts = np.cumsum(counts) - counts
    ranks_N = np.empty(len(examples), dtype=np.int64)
    ranks_N[order] = positions - starts[targets_N[order]]
    whole, rest = np.divmod(wanted, np.maximum(counts, 1))
    repeats_N = whole[targets_N] + (ranks_N < rest[targets_N])
    chosen = np.repeat(positions, repeats_N)
    names = examples.labels.names
    logger.info(
        "%s-sampled classes: %s",
        settings.method,
        ", ".join(
            f"{name} {old:,} -> {new:,}"
            for name, old, new in zip(names, counts, np.bincount(targets_N[chosen]), strict=False)
        ),
    )
    return chosen


def hold_out(
    examples: Examples, share: float, *, seed: int = 0
) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Split examples in two, each with about the same share of every class.

    Equal texts come to the same side, so that none is tested that was trained on; and of a class
    (a tenth of the rows, if the targets are numbers) one text at least is trained on.

    Args:
        examples: with targets.
        share: of the texts that the second part is to have.
        seed: the same seed gives the same parts.

    Returns:
        The positions of the two parts, ascending.

    Raises:
        ConfigError: share is not between 0 and 1.
        DataError: no text can be spared, or the examples have no targets.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share held out is {share}; give one between 0 and 1, such as 0.1.")
    groups_N, strata, order = _dealt(examples, seed)
    # The n-th text in this order is held out where n * share passes a whole number: evenly spread.
    steps = np.floor(np.arange(len(order) + 1) * share + 0.5)
    held_out = np.zeros(len(order), dtype=bool)
    held_out[order] = np.diff(steps) > 0
    strata_in_order, first = np.unique(strata[order], return_index=True)
    kept = np.bincount(strata[~held_out], minlength=strata.max() + 1)[strata_in_order]
    held_out[order[first[kept == 0]]] = False
    if not held_out.any():
        raise DataError(
            f"{share:g} of {len(order)} different texts holds out none that can be spared. Give "
            "more rows, a larger share, or a file of their own to test on."
        )
    return np.flatnonzero(~held_out[groups_N]), np.flatnonzero(held_out[groups_N])


def folds(
    examples: Examples, num_folds: int, *, seed: int = 0
) -> list[tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]]:
    """Split examples so that each is held out exactly once; equal texts as in `hold_out`.

    Args:
        examples: with targets.
        num_folds: how many parts, each with about the same share of every class.
        seed: the same seed gives the same parts.

    Returns:
        For each fold the positions to train on and those held out, ascending.

    Raises:
        ConfigError: num_folds is less than 2.
        DataError: there are fewer different texts than folds, or no targets.
    """
    if num_folds < 2:
        raise ConfigError(f"folds is {num_folds}; give 2 or more.")
    groups_N, _, order = _dealt(examples, seed)
    if len(order) < num_folds:
        raise DataError(
            f"{len(order)} different texts cannot be split into {num_folds} folds. Give more rows."
        )
    fold_of = np.empty(len(order), dtype=np.int64)
    fold_of[order] = np.arange(len(order)) % num_folds
    folds_N = fold_of[groups_N]
    return [
        (np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold))
        for fold in range(num_folds)
    ]


def _dealt(examples: Examples, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each example's group of equal texts; each group's stratum; the groups by stratum.

    Within a stratum the order is random.
    """
    if examples.targets is None:
        raise DataError("examples without targets cannot be split by them. Label them first.")
    keys: Sequence[object] = examples.texts
    if examples.pairs is not None:
        # A pair and its mirror are one: their texts say the same of each other.
        keys = [tuple(sorted(pair)) for pair in zip(examples.texts, examples.pairs, strict=True)]
    numbers: dict[object, int] = {}
    groups_N = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    first = np.unique(groups_N, return_index=True)[1]
    strata = _strata(examples.targets)[first]
    return groups_N, strata, np.lexsort((np.random.default_rng(seed).random(len(first)), strata))


def _strata(targets: np.ndarray) -> Int64[np.ndarray, "N"]:
    """Return the class of each row; the rarest of several; the tenth of all rows of a number."""
    if targets.ndim == 2:
        rarity_NC = np.where(targets > 0, targets.sum(axis=0), np.inf)
        strata_N = np.where(targets.any(axis=1), rarity_NC.argmin(axis=1), targets.shape[1])
    elif targets.dtype.kind == "f":
        edges = np.quantile(targets, np.linspace(0, 1, QUANTILES + 1)[1:-1])
        strata_N = np.searchsorted(edges, targets)
    else:
        strata_N = targets
    return np.asarray(strata_N, dtype=np.int64)
