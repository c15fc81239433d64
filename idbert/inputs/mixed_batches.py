"""Batches of two objectives for one model: masked items, and next items."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.item_batches import ItemBatch, MaskedItemData, NextItemData
from idbert.inputs.masking import draws, sequence_keys
from idbert.inputs.planned_loader import PlannedData

_MIXED = (1 << 16) + 1
"""The purpose of the draws that choose what a batch is of; see `draws`."""


@dataclass(frozen=True)
class MixedSettings:
    """How batches of next items are mixed among those of masked items."""

    share: float = 0.5
    """Share of the batches that are of next items, read from the past alone."""

    used_as: Literal["next", "masked"] = "next"
    """What the model is evaluated and used as; and whose default head_transform it has."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(
                f"share is {self.share}; it must be above 0 and below 1. Without a mixture, "
                "pretrain for masked items or fine-tune for next ones."
            )


class MixedItemData(PlannedData):
    """Each batch of masked items or of next items, drawn by seed, epoch and its place in the epoch.

    So all processes make the same choice, and a resumed run makes it again. A batch of histories of
    one event, which have no next one, is of masked items.

    Args:
        masked: the sequences with items hidden.
        following: the same sequences with next items.
        share: of the batches of next items.
        seed: of the run.
    """

    def __init__(
        self, masked: MaskedItemData, following: NextItemData, share: float, *, seed: int
    ) -> None:
        self.masked, self.following = masked, following
        self._share, self._seed = share, seed

    def __len__(self) -> int:
        """Return U, the number of sequences, those that are left out of the plan included."""
        return len(self.masked)

    @property
    def input_lengths(self) -> Int64[np.ndarray, "U"]:
        """Positions that each sequence needs in a batch: those of all its items."""
        return self.masked.input_lengths

    def __getitems__(self, planned: PlannedBatch) -> ItemBatch:
        """Build one batch: what its objective has, and `is_causal`."""
        longer = planned.sequences[self.following.input_lengths[planned.sequences] > 0]
        key_B = sequence_keys(self._seed, planned.epoch, np.array([planned.number]))
        is_causal = len(longer) > 0 and draws(key_B, _MIXED, 1).item() < self._share
        batch = (
            self.following.__getitems__(replace(planned, sequences=longer))
            if is_causal
            else self.masked.__getitems__(planned)
        )
        return batch | {"is_causal": torch.tensor(is_causal)}
