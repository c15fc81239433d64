"""The validation part, and how good a model is on it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from idbert.errors import DataError
from idbert.evaluation.metrics import metrics_at
from idbert.evaluation.ranks import Score, target_ranks
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.item_batches import history_batches
from idbert.inputs.sequences import Sequences
from idbert.nn.item_models import ItemModel


@dataclass(frozen=True, eq=False)
class Validation:
    """Histories, and the one item that followed each.

    Attributes:
        histories: Whole histories (max_length=None), since all seen items are filtered; the model
            reads as much of their newest part as it can hold.
        targets_U: The vocabulary row of each user's next item.
        max_length: Newest events of a history that the model reads; None: as many as it can hold.
        filter_seen: Whether items of a user's history are left out of the ranking.

    Raises:
        DataError: histories and targets are not of the same users.
    """

    histories: Sequences
    targets_U: Int64[np.ndarray, "U"]
    max_length: int | None = None
    filter_seen: bool = True

    def __post_init__(self) -> None:
        if len(self.histories) != len(self.targets_U):
            raise DataError(
                f"The validation part has {len(self.histories)} histories and "
                f"{len(self.targets_U)} targets. Give one target for each history."
            )


def model_score(model: ItemModel, validation: Validation, batches: BatchSettings) -> Score:
    """Encode all users once, and return what scores them against the whole catalogue.

    Args:
        model: Left in the mode (training or not) that it is in.
        validation: The histories.
        batches: How many positions a batch may have.
    """
    limits = [limit for limit in (model.max_length, validation.max_length) if limit is not None]
    users_UD = model.encode_users(
        history_batches(
            validation.histories,
            objective=model.objective,
            max_length=min(limits, default=None),
            token_budget=batches.token_budget,
        ),
        num_users=len(validation.histories),
    )
    items_VD = model.item_vectors()

    def score(positions_B: Int64[np.ndarray, "B"]) -> Float[Tensor, "B V"]:
        return users_UD[torch.from_numpy(positions_B)] @ items_VD.T

    return score


def validation_metrics(
    model: ItemModel, validation: Validation, batches: BatchSettings
) -> dict[str, float]:
    """Rank the whole catalogue for every user and return "ndcg@10", "recall@10" and so on.

    Args:
        model: Left in the mode (training or not) that it is in.
        validation: Histories and targets.
        batches: How many positions a batch may have.
    """
    ranking = target_ranks(
        model_score(model, validation, batches),
        validation.targets_U,
        validation.histories.items,
        validation.histories.offsets,
        vocab_size=model.config.vocab_size,
        filter_seen=validation.filter_seen,
    )
    return metrics_at(ranking.ranks_U)
