"""Attributes of items, whose vectors are added to the vectors of the ids."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from idbert.nn.encoder_config import EncoderConfig


class AttributeSum(nn.Module):
    """The sum of the vectors of an item's attributes, such as its genres.

    An item's vector is that of its id plus this sum, in the input and in the scores, so that an
    item that nobody has clicked has a sensible one. Which attributes an item has is part of the
    saved weights.

    Args:
        config: vocab_size, hidden_size, num_attributes and attributes_per_item are read.

    Attributes:
        rows_VG: The numbers of each row's attributes, from 1 on; 0 where there are fewer.
    """

    rows_VG: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.num_attributes + 1, config.hidden_size, padding_idx=0)
        shape = (config.vocab_size, config.attributes_per_item)
        self.register_buffer("rows_VG", torch.zeros(shape, dtype=torch.long))

    def forward(self, input_ids: Int[Tensor, "..."]) -> Float[Tensor, "... D"]:
        """Return the sums of some rows; 0 for a row without attributes."""
        return self._sums(self.rows_VG[input_ids.flatten()]).view(*input_ids.shape, -1)

    def table(self) -> Float[Tensor, "V D"]:
        """Return the sums of all rows."""
        return self._sums(self.rows_VG)

    def resize(self, vocab_size: int) -> None:
        """Grow or shrink with the table of the ids; new rows have no attributes."""
        kept = self.rows_VG[:vocab_size]
        self.rows_VG = kept.new_zeros(vocab_size, kept.shape[1])
        self.rows_VG[: len(kept)] = kept

    def _sums(self, rows_NG: Tensor) -> Tensor:
        sums: Tensor = embedding_bag(rows_NG, self.embeddings.weight, mode="sum", padding_idx=0)
        return sums
