"""Batches for masked language modelling."""

import numpy as np
import torch
from jaxtyping import Int64, Integer
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.planned_loader import Batch, PlannedData
from idbert.inputs.text import EncodedTexts
from idbert.inputs.text_batches import padded, padded_batch
from idbert.inputs.word_masking import WordMasker, WordMaskingSettings


class MaskedTextData(PlannedData):
    """Encoded texts with some tokens hidden, drawn anew every epoch.

    Args:
        encoded: the texts; with `mark_words` if words or n-grams are hidden.
        tokenizer: that encoded them.
        masking: which tokens are hidden and by what.
        seed: of the run.

    Raises:
        ConfigError: whole words are to be hidden, and the texts do not tell where one begins.
        CheckpointError: the tokenizer has no mask token.
    """

    def __init__(
        self,
        encoded: EncodedTexts,
        tokenizer: PreTrainedTokenizerBase,
        masking: WordMaskingSettings,
        *,
        seed: int,
    ) -> None:
        self.encoded = encoded
        self._masker = WordMasker(tokenizer, masking, seed=seed)
        self._pad_id = int(tokenizer.pad_token_id)
        if self._masker.needs_words and encoded.starts_word is None:
            raise ConfigError(
                f"to mask by the {masking.unit}, the texts must say where words begin. "
                "Encode them with mark_words=True."
            )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.encoded)

    @property
    def token_ids(self) -> Integer[np.ndarray, "T"]:
        """All tokens, end to end."""
        return self.encoded.ids

    @property
    def input_lengths(self) -> Int64[np.ndarray, "N"]:
        """Positions that each sequence needs in a batch."""
        return self.encoded.lengths

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        """Build one batch: input_ids, attention_mask, labels, and token_type_ids if there are."""
        encoded = self.encoded
        batch = padded_batch(encoded, planned.sequences, self._pad_id, planned.width)
        starts_B = encoded.offsets[planned.sequences]
        lengths_B = encoded.lengths[planned.sequences]
        starts_word_BL = None
        if encoded.starts_word is not None and self._masker.needs_words:
            starts_word_BL = padded(
                encoded.starts_word, starts_B, lengths_B, 1, planned.width
            ).astype(bool)
        shown_BL, labels_BL = self._masker.mask(
            batch["input_ids"].numpy(),
            lengths_B,
            planned.sequences,
            starts_word_BL,
            epoch=planned.epoch,
        )
        return batch | {
            "input_ids": torch.from_numpy(shown_BL),
            "labels": torch.from_numpy(labels_BL),
        }
