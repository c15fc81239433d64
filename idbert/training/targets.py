"""What a batch's loss is divided by, so that accumulated batches weigh as one large batch."""

import inspect

import torch
from jaxtyping import Int
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.inputs.planned_loader import SPARE, Batch


def as_countable(batch: Batch) -> Int[Tensor, "..."]:
    """Return labels of a batch of which each that is not -100 is one target.

    Class or token labels are integers and targets one by one. Multi-hot labels and numbers are
    floats, [B, C] or [B], and each row is one target, as where there are no labels. A batch that
    another process counts has none.
    """
    if SPARE in batch:
        return torch.zeros(0, dtype=torch.int64)
    labels = batch.get("labels")
    if labels is not None and not labels.is_floating_point():
        return labels
    rows = next(iter(batch.values())) if labels is None else labels
    return torch.zeros(len(rows), dtype=torch.int64)


def check_divides_by_targets(model: nn.Module) -> None:
    """Check that a model takes the number of targets of the whole step.

    Trainer believes any model with keyword arguments to do so; one that does not trains on a loss
    that is multiplied by the accumulated batches and the processes.

    Raises:
        ConfigError: its forward has no argument `num_items_in_batch`.
    """
    if "num_items_in_batch" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"{type(model).__name__}.forward has no argument num_items_in_batch. Its loss must be "
            "the sum over the targets divided by that number, so that accumulated batches count "
            "as one large batch."
        )
