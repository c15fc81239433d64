"""Batches of encoded texts; the keys are the argument names of a model's `forward`.

Padding is on the right.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Int64

from idbert.errors import DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.planned_loader import Batch, PlannedData
from idbert.inputs.text import EncodedTexts

Targets: TypeAlias = Int64[np.ndarray, "_"] | Float32[np.ndarray, "_ C"] | Float32[np.ndarray, "_"]
"""Of each text: its class, its classes (0 or 1 for each), or its number."""


class TextData(PlannedData):
    """Encoded texts with their labels.

    Several windows of a text all have its label.

    Args:
        encoded: the texts.
        labels: one row a text, not a sequence: classes (int64), or numbers (float32), of several
            labels one column each.
        pad_id: the tokenizer's.

    Raises:
        DataError: there are more or fewer labels than texts.
    """

    def __init__(self, encoded: EncodedTexts, labels: Targets, *, pad_id: int) -> None:
        if len(labels) != encoded.num_texts:
            raise DataError(f"{encoded.num_texts} texts have {len(labels)} labels.")
        self.encoded = encoded
        self._labels, self._pad_id = labels, pad_id

    def __len__(self) -> int:
        """Return the number of sequences, which is above that of texts if there are windows."""
        return len(self.encoded)

    @property
    def input_lengths(self) -> Int64[np.ndarray, "N"]:
        """Positions that each sequence needs in a batch."""
        return self.encoded.lengths

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        """Build one batch: input_ids, attention_mask, labels, and token_type_ids if there are."""
        batch = padded_batch(self.encoded, planned.sequences, self._pad_id, planned.width)
        rows_B = self.encoded.rows_N[planned.sequences]
        batch["labels"] = torch.from_numpy(self._labels[rows_B])
        return batch


def text_batches(
    encoded: EncodedTexts,
    pad_id: int,
    token_budget: int = 8192,
    chosen_N: Int64[np.ndarray, "N"] | None = None,
) -> Iterator[tuple[Int64[np.ndarray, "B"], Batch]]:
    """Yield sequences for prediction, each once, the longest first.

    Args:
        encoded: the texts.
        pad_id: the tokenizer's.
        token_budget: positions of a batch, padding included; a longer sequence comes alone.
        chosen_N: places of the sequences to yield. Default: all.

    Yields:
        The places of the batch's sequences in `encoded` (their texts are `rows_N` there), and the
        batch: input_ids, attention_mask, and token_type_ids if there are.
    """
    lengths_N = encoded.lengths
    if chosen_N is None:
        chosen_N = np.arange(len(encoded))
    order_N = chosen_N[np.argsort(-lengths_N[chosen_N], kind="stable")]
    first = 0
    while first < len(order_N):
        longest = int(lengths_N[order_N[first]])
        places_B = order_N[first : first + max(1, token_budget // max(1, longest))]
        first += len(places_B)
        yield places_B, padded_batch(encoded, places_B, pad_id)


def padded_batch(
    encoded: EncodedTexts, places_B: Int64[np.ndarray, "B"], pad_id: int, width: int = 0
) -> Batch:
    """Return sequences as input_ids, attention_mask, and token_type_ids if there are.

    Args:
        encoded: the texts.
        places_B: which sequences.
        pad_id: the tokenizer's.
        width: L; 0: the longest of them.
    """
    starts_B = encoded.offsets[places_B]
    lengths_B = encoded.offsets[places_B + 1] - starts_B
    width = width or int(lengths_B.max())
    batch = {
        "input_ids": torch.from_numpy(padded(encoded.ids, starts_B, lengths_B, pad_id, width)),
        "attention_mask": torch.from_numpy(
            (np.arange(width) < lengths_B[:, None]).astype(np.int64)
        ),
    }
    if encoded.type_ids is not None:
        types_BL = padded(encoded.type_ids, starts_B, lengths_B, 0, width)
        batch["token_type_ids"] = torch.from_numpy(types_BL)
    return batch


def padded(
    flat_T: np.ndarray,
    starts_B: Int64[np.ndarray, "B"],
    lengths_B: Int64[np.ndarray, "B"],
    fill: int,
    width: int = 0,
) -> Int64[np.ndarray, "B L"]:
    """Lay slices of a flat array out as rows of `width` or the longest, with `fill` behind them."""
    places_L = np.arange(width or lengths_B.max())
    rows_BL = np.full((len(starts_B), len(places_L)), fill, np.int64)
    real_BL = places_L < lengths_B[:, None]
    rows_BL[real_BL] = flat_T[(starts_B[:, None] + places_L)[real_BL]]
    return rows_BL
