"""A loader whose batches are planned before they are built."""

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idbert.inputs.batch_plan import BatchPlan, PlannedBatch

Batch: TypeAlias = dict[str, Tensor]
"""Tensors by the names of a model's `forward` arguments."""


class PlannedData(Dataset[Batch]):
    """Base of the data sets whose batches are planned, be they of items or of texts."""

    def __len__(self) -> int:
        """Return the number of sequences, those that are left out of the plan included."""
        raise NotImplementedError

    @property
    def input_lengths(self) -> Int64[np.ndarray, "N"]:
        """Positions that each sequence needs in a batch; 0: it is not trained on."""
        raise NotImplementedError

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        """Build one batch."""
        raise NotImplementedError


class PlannedLoader(DataLoader[Batch]):
    """A loader whose batches are those of a `BatchPlan`, already shared out among the ranks.

    It must not be prepared by accelerate for several processes, which would share them out again.
    `accelerate.skip_first_batches` may wrap it: the skipped batches are planned but never built.

    Args:
        data: builds a batch from its plan.
        plan: the batch sampler; keeps the epoch.
        num_workers: processes that build batches ahead; 0: this one does. Batches are the same.
    """

    def __init__(self, data: PlannedData, plan: BatchPlan, num_workers: int = 0) -> None:
        super().__init__(
            data,
            # A plan yields what __getitems__ takes, torch's annotations only know lists of places.
            batch_sampler=plan,  # type: ignore[arg-type]
            collate_fn=_as_built,  # type: ignore[arg-type]
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            # Else each start of an epoch would take a number from the generator of dropout.
            generator=torch.Generator(),
        )
        self._plan = plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self._plan.set_epoch(epoch)


def train_loader(data: PlannedData, plan: BatchPlan, num_workers: int = 0) -> PlannedLoader:
    """Return the loader of `data` in the order of `plan`, which was made of its `input_lengths`."""
    return PlannedLoader(data, plan, num_workers)


def _as_built(batch: Batch) -> Batch:
    """Leave a batch as the data set built it; nothing is left to collate."""
    return batch
