"""Batches of windows; the keys are the argument names of a reader's `forward`."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Int64

from idbert.errors import DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.planned_loader import Batch, PlannedData
from idbert.inputs.text_batches import padded, padded_batch
from nlp_tasks.mrc.windows import ContextWindows

TOKEN_BUDGET = 8192
"""Positions of a batch for answering, padding included."""


class ReadingData(PlannedData):
    """Windows with the positions of their answers, to train on.

    Args:
        windows: of the questions.
        positions_N2: from `answer_positions`.
        pad_id: the tokenizer's.
    """

    def __init__(
        self, windows: ContextWindows, positions_N2: Int64[np.ndarray, "N 2"], *, pad_id: int
    ) -> None:
        if len(positions_N2) != len(windows):
            raise DataError(f"{len(windows)} windows have {len(positions_N2)} answers.")
        self.windows = windows
        self._positions_N2, self._pad_id = positions_N2, pad_id
        self._can_hold_answer_T = windows.can_hold_answer_T

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    @property
    def input_lengths(self) -> Int64[np.ndarray, "N"]:
        """Positions that each window needs in a batch."""
        return self.windows.encoded.lengths

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        """Build one batch: that of `window_batch`, start_positions and end_positions."""
        places_B = planned.sequences
        batch = window_batch(
            self.windows, places_B, self._pad_id, self._can_hold_answer_T, planned.width
        )
        positions_B2 = torch.from_numpy(self._positions_N2[places_B])
        batch["start_positions"], batch["end_positions"] = positions_B2.unbind(dim=1)
        return batch


def window_batch(
    windows: ContextWindows,
    places_B: Int64[np.ndarray, "B"],
    pad_id: int,
    can_hold_answer_T: Bool[np.ndarray, "T"],
    width: int = 0,
) -> Batch:
    """Return windows as input_ids, attention_mask, context_mask, and types and words if there are.

    Args:
        windows: some of which are asked for.
        places_B: which.
        pad_id: the tokenizer's.
        can_hold_answer_T: `windows.can_hold_answer_T`, computed once.
        width: positions that they are padded to; 0: the longest of them.
    """
    batch = padded_batch(windows.encoded, places_B, pad_id, width)
    starts_B = windows.encoded.offsets[places_B]
    lengths_B = windows.encoded.lengths[places_B]
    batch["context_mask"] = torch.from_numpy(
        padded(can_hold_answer_T, starts_B, lengths_B, 0, width)
    )
    if windows.word_ids is not None:
        batch["word_ids"] = torch.from_numpy(
            padded(windows.word_ids, starts_B, lengths_B, 0, width)
        )
    return batch


def window_batches(
    windows: ContextWindows, pad_id: int, token_budget: int = TOKEN_BUDGET
) -> Iterator[tuple[Int64[np.ndarray, "B"], Batch]]:
    """Yield all windows for answering, the longest first.

    Args:
        windows: of the questions.
        pad_id: the tokenizer's.
        token_budget: positions of a batch, padding included; a longer window comes alone.

    Yields:
        The places of the batch's windows, and the batch of `window_batch`.
    """
    can_hold_answer_T = windows.can_hold_answer_T
    lengths_N = windows.encoded.lengths
    order_N = np.argsort(-lengths_N, kind="stable")
    first = 0
    while first < len(order_N):
        longest = int(lengths_N[order_N[first]])
        places_B = order_N[first : first + max(1, token_budget // longest)]
        first += len(places_B)
        yield places_B, window_batch(windows, places_B, pad_id, can_hold_answer_T)
