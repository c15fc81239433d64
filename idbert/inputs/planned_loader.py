"""A loader whose batches are planned before they are built."""

import hashlib
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idbert.inputs.batch_plan import BatchPlan, PlannedBatch

Batch: TypeAlias = dict[str, Tensor]
"""Tensors by the names of a model's `forward` arguments."""

SPARE = "is_spare"
"""Key in a batch that another process counts; a trainer takes it out, and the loss times 0."""

_SAMPLE, _AT_A_TIME = 1024, 64
"""Sequences that a fingerprint looks into, and how many of them it builds at a time."""


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

    def fingerprint(self) -> str:
        """Return a digest: the length of each sequence, and what an even sample of them holds."""
        lengths = np.ascontiguousarray(self.input_lengths)
        digest = hashlib.sha256(lengths.tobytes())
        trained = np.flatnonzero(lengths)
        places = trained[:: max(1, len(trained) // _SAMPLE)]
        for start in range(0, len(places), _AT_A_TIME):
            batch = self.__getitems__(PlannedBatch(0, places[start : start + _AT_A_TIME]))
            for name, tensor in sorted(batch.items()):
                digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


class PlannedLoader(DataLoader[Batch]):
    """A loader whose batches are those of a `BatchPlan`, already shared out among the ranks.

    It must not be prepared by accelerate for several processes, which would share them out again.
    A batch of which this rank has no share holds `SPARE`.
    `accelerate.skip_first_batches` may wrap it: the skipped batches are planned but never built.

    Args:
        data: builds a batch from its plan.
        plan: the batch sampler; keeps the epoch.
        num_workers: processes that build batches ahead; 0: this one does. Batches are the same.
    """

    def __init__(self, data: PlannedData, plan: BatchPlan, num_workers: int = 0) -> None:
        super().__init__(
            data if plan.world_size == 1 else _SharedData(data),
            # A plan yields what __getitems__ takes, torch's annotations only know lists of places.
            batch_sampler=plan,  # type: ignore[arg-type]
            collate_fn=_as_built,  # type: ignore[arg-type]
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            # Else each start of an epoch would take a number from the generator of dropout.
            generator=torch.Generator(),
        )
        self._data, self._plan = data, plan

    def fingerprint(self) -> str:
        """Return a digest of the data and of how they are put together."""
        return f"{self._data.fingerprint()}, {len(self)} batches"

    @property
    def largest_batch(self) -> int:
        """Positions of this rank's share of the largest batch, padding included."""
        return -(-self._plan.largest // self._plan.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self._plan.set_epoch(epoch)


class _SharedData(PlannedData):
    """Data whose spare batches say that they are."""

    def __init__(self, data: PlannedData) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    @property
    def input_lengths(self) -> Int64[np.ndarray, "N"]:
        return self._data.input_lengths

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        batch = self._data.__getitems__(planned)
        return batch | {SPARE: torch.ones(())} if planned.is_spare else batch


def train_loader(data: PlannedData, plan: BatchPlan, num_workers: int = 0) -> PlannedLoader:
    """Return the loader of `data` in the order of `plan`, which was made of its `input_lengths`."""
    return PlannedLoader(data, plan, num_workers)


def _as_built(batch: Batch) -> Batch:
    """Leave a batch as the data set built it; nothing is left to collate."""
    return batch
