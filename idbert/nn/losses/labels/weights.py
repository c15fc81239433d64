"""Weights of the classes: as given, or balanced by the counts of the training rows."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError, DataError

ClassWeights: TypeAlias = tuple[float | int, ...] | Literal["balanced"] | None
"""One number a class, or "balanced", or None for no weights."""


def balanced_weights(counts_C: Shaped[Tensor, "C"]) -> Float[Tensor, "C"]:
    """Return n / (c * count) for each of the c classes that occur in n rows.

    So every class that occurs has the same share of the loss, and the mean weight of a row is 1.
    A class that does not occur has the weight 0. Source: scikit-learn's "balanced".

    Args:
        counts_C: Rows of each class.

    Raises:
        DataError: no class occurs.
    """
    counts_C = counts_C.float()
    total, occurring = counts_C.sum(), (counts_C > 0).sum()
    if not total > 0:
        raise DataError("Balanced class weights need training rows with labels; there are none.")
    return torch.where(counts_C > 0, total / (occurring * counts_C.clamp(min=1.0)), 0.0)


def balanced_positive_weights(counts_C: Shaped[Tensor, "C"], num_rows: int) -> Float[Tensor, "C"]:
    """Return rows without the label / rows with it; 1 where no row or every row bears it.

    Args:
        counts_C: Rows that bear each label.
        num_rows: Rows in all.

    Raises:
        DataError: a label is borne by more rows than there are.
    """
    counts_C = counts_C.float()
    if (counts_C > num_rows).any():
        raise DataError(f"A label occurs in {int(counts_C.max())} of {num_rows} rows.")
    negatives_C = num_rows - counts_C
    ratio_C = negatives_C / counts_C.clamp(min=1.0)
    return torch.where((counts_C > 0) & (negatives_C > 0), ratio_C, 1.0)


class LossWeights(nn.Module):
    """Weights of the classes in a buffer, saved with the model.

    Args:
        option: Name of the option, for messages.
        given: The weights, "balanced" or None.
        num_outputs: C, the number of classes.

    Raises:
        ConfigError: the weights are not C numbers of at least 0, or all 0.
    """

    weights_C: Tensor
    is_fitted: Tensor

    def __init__(self, option: str, given: ClassWeights, num_outputs: int) -> None:
        super().__init__()
        self.option, self.given = option, given
        if isinstance(given, tuple):
            _check(option, given, num_outputs)
            values = torch.tensor(given, dtype=torch.float32)
        else:
            values = torch.ones(num_outputs)
        self.register_buffer("weights_C", values)
        self.register_buffer("is_fitted", torch.tensor(given != "balanced"))

    def set(self, weights_C: Float[Tensor, "C"]) -> None:
        """Take these weights if balanced ones are asked for."""
        if self.given == "balanced":
            self.weights_C.copy_(weights_C)
            self.is_fitted.fill_(True)

    def forward(self) -> Float[Tensor, "C"]:
        """Return the weights.

        Raises:
            ConfigError: they are to be balanced, and were not set.
        """
        if self.given == "balanced" and not self.is_fitted:  # only then a GPU is waited for
            raise ConfigError(
                f"{self.option}='balanced' needs the counts of the training rows. Call `fit` of "
                "the loss before training."
            )
        return self.weights_C


def _check(option: str, given: tuple[float | int, ...], num_outputs: int) -> None:
    if len(given) != num_outputs:
        raise ConfigError(
            f"{option} holds {len(given)} numbers, and there are {num_outputs} labels. Give one "
            "number a label, in the order of the label map."
        )
    if not all(0.0 <= weight < float("inf") for weight in given) or not any(given):
        raise ConfigError(f"{option} is {given}; give numbers of at least 0 that are not all 0.")
