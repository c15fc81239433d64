"""Batches of item ids, built from flat sequences by index arithmetic.

The keys of a batch are the argument names of a model's `forward`. Padding (row 0) is on the right.
"""

from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.item_times import MICROSECONDS, TimeInput, check_times, times_as_seen
from idbert.inputs.masking import IGNORED, MaskingSettings, mask_items, next_targets
from idbert.inputs.planned_loader import PlannedData
from idbert.inputs.recency import TargetSettings
from idbert.inputs.sequences import Sequences
from idbert.rows import FIRST_ITEM, MASK

ItemBatch: TypeAlias = dict[str, Tensor]
"""Always input_ids and attention_mask [B, L]; with their data also labels, token_type_ids
(behaviours) and weights (of each label in the loss); where a model reads times also timestamps (of
each event, in seconds) and, for next items, query_timestamps (of each label)."""


class MaskedItemData(PlannedData):
    """Whole sequences with some items hidden, drawn anew every epoch (see `mask_items`).

    Args:
        sequences: of the training part.
        masking: which items are hidden and by what.
        vocab_size: V; random replacements are drawn from the rows below it.
        seed: of the run.
        times: which the model reads; with "events" a target's own time is never told: in its place
            stands that of the nearest event before it that is no target (see `times_as_seen`).

    Raises:
        ConfigError: the log has no real times for it to read.
    """

    def __init__(
        self,
        sequences: Sequences,
        masking: MaskingSettings,
        *,
        vocab_size: int,
        seed: int,
        times: TimeInput = "none",
    ) -> None:
        check_times(sequences.times, times)
        self.sequences, self._times = sequences, times
        self._masking, self._vocab_size, self._seed = masking, vocab_size, seed

    def __len__(self) -> int:
        """Return U, the number of sequences, those that are left out of the plan included."""
        return len(self.sequences)

    @property
    def input_lengths(self) -> Int64[np.ndarray, "U"]:
        """Positions that each sequence needs in a batch; an empty one is not trained on."""
        return self.sequences.lengths

    def __getitems__(self, planned: PlannedBatch) -> ItemBatch:
        """Build one batch: input_ids, attention_mask, labels, and what else the data has."""
        starts_B = self.sequences.starts[planned.sequences]
        lengths_B = self.sequences.stops[planned.sequences] - starts_B
        slots = _Slots(starts_B, lengths_B, width=planned.width)
        input_ids_BL, labels_BL = mask_items(
            slots.rows(self.sequences.items),
            lengths_B,
            planned.sequences,
            settings=self._masking,
            vocab_size=self._vocab_size,
            seed=self._seed,
            epoch=planned.epoch,
        )
        batch = _inputs(input_ids_BL, slots, self.sequences)
        batch["labels"] = torch.from_numpy(labels_BL)
        if self._times != "none" and self.sequences.times is not None:
            times_BL = slots.seconds(self.sequences.times)
            if self._times == "events":
                times_BL = times_as_seen(times_BL, labels_BL != IGNORED, lengths_B)
            batch["timestamps"] = torch.from_numpy(times_BL)
        if self.sequences.weights is not None:
            batch["weights"] = torch.from_numpy(slots.weights(self.sequences.weights))
        return batch


class NextItemData(PlannedData):
    """Sequences whose every event but the first is the label of the event before it.

    Args:
        sequences: of the training part; those with fewer than 2 events are not trained on.
        targets: which of the labels count, drawn anew every epoch; by default all of them.
        times: which the model reads; with "queries" each event is told the time of its label.
        seed: of the run.

    Raises:
        ConfigError: the log has no real times for it to read.
    """

    def __init__(
        self,
        sequences: Sequences,
        targets: TargetSettings = TargetSettings(),  # noqa: B008 (frozen)
        times: TimeInput = "none",
        *,
        seed: int = 0,
    ) -> None:
        check_times(sequences.times, times)
        self.sequences, self._times = sequences, times
        self._targets, self._seed = targets, seed

    def __len__(self) -> int:
        """Return U, the number of sequences, those that are left out of the plan included."""
        return len(self.sequences)

    @property
    def input_lengths(self) -> Int64[np.ndarray, "U"]:
        """Positions that each sequence needs in a batch; 0: nothing to train on."""
        return (self.sequences.lengths - 1).clip(min=0)

    def __getitems__(self, planned: PlannedBatch) -> ItemBatch:
        """Build one batch: input_ids, attention_mask, labels, and what else the data has."""
        starts_B = self.sequences.starts[planned.sequences]
        lengths_B = self.sequences.stops[planned.sequences] - starts_B - 1
        inputs = _Slots(starts_B, lengths_B, width=planned.width)
        targets = _Slots(starts_B + 1, lengths_B, width=planned.width)
        input_ids_BL = inputs.rows(self.sequences.items)
        labels_BL = targets.rows(self.sequences.items)
        labels_BL[labels_BL < FIRST_ITEM] = IGNORED  # padding, and items outside the catalogue
        if not self._targets.are_all:
            has_loss_BL = next_targets(
                labels_BL != IGNORED,
                lengths_B,
                planned.sequences,
                settings=self._targets,
                seed=self._seed,
                epoch=planned.epoch,
            )
            labels_BL[~has_loss_BL] = IGNORED
        batch = _inputs(input_ids_BL, inputs, self.sequences)
        batch["labels"] = torch.from_numpy(labels_BL)
        if self._times != "none" and self.sequences.times is not None:
            batch["timestamps"] = torch.from_numpy(inputs.seconds(self.sequences.times))
            if self._times == "queries":
                asked_BL = targets.seconds(self.sequences.times)
                batch["query_timestamps"] = torch.from_numpy(asked_BL)
        if self.sequences.weights is not None:
            batch["weights"] = torch.from_numpy(targets.weights(self.sequences.weights))
        return batch


ItemData: TypeAlias = MaskedItemData | NextItemData


def history_batches(
    sequences: Sequences,
    *,
    objective: Literal["masked", "next"],
    max_length: int | None,
    token_budget: int = 12800,
    query_behaviour: int = 0,
    times: TimeInput = "none",
    query_times_U: Int64[np.ndarray, "U"] | None = None,
) -> Iterator[tuple[Int64[np.ndarray, "B"], ItemBatch]]:
    """Yield histories as inputs for recommending, longest first; the query is the last position.

    "masked": the newest `max_length - 1` items, then the mask in the place of the item to come.
    "next": the newest `max_length` items.

    Args:
        sequences: one history a user; empty ones are allowed for "masked" only.
        objective: of the model.
        max_length: positions of the model; None: no limit.
        token_budget: positions of a batch, padding included; a longer history comes alone.
        query_behaviour: segment id of the item to come ("masked"), if the data has behaviours.
        times: which the model reads. With "events" the mask has the newest event's time.
        query_times_U: the moment for which each user is recommended to, in microseconds since
            1970-01-01 UTC, where the model reads it.

    Yields:
        Places of the batch's users in `sequences`, and the batch; all users, each once.

    Raises:
        DataError: a history is empty and the objective "next".
        ConfigError: the histories have no real times, or there are no query times, and the model
            reads them.
    """
    check_times(sequences.times, times)
    if times == "queries" and query_times_U is None:
        raise ConfigError(
            "The model reads the time of the query (model.time_bias.query_time), and none is "
            "given. Say for which moment is recommended."
        )
    queries = 1 if objective == "masked" else 0
    lengths_U = sequences.lengths
    if max_length is not None:
        lengths_U = np.minimum(lengths_U, max_length - queries)
    if objective == "next" and not lengths_U.all():
        raise DataError(
            f"{np.count_nonzero(lengths_U == 0)} of {len(lengths_U)} histories are empty; a "
            "next-item model needs at least one item. Recommend the most popular items instead."
        )
    order_U = np.argsort(-lengths_U, kind="stable")
    first = 0
    while first < len(order_U):
        longest = int(lengths_U[order_U[first]]) + queries
        users_B = order_U[first : first + max(1, token_budget // longest)]
        first += len(users_B)
        lengths_B = lengths_U[users_B]
        slots = _Slots(sequences.stops[users_B] - lengths_B, lengths_B, queries)
        input_ids_BL = slots.rows(sequences.items, query=MASK)
        batch = _inputs(input_ids_BL, slots, sequences, query_behaviour)
        if times != "none" and sequences.times is not None:
            asked_B = None
            if times == "queries" and query_times_U is not None:
                asked_B = query_times_U[users_B] // MICROSECONDS
            batch |= _history_times(slots, sequences.times, asked_B)
        yield users_B, batch


class _Slots:
    """Where the events of some sequences stand in a padded batch.

    Args:
        starts_B: the place of each sequence's first event in the flat arrays.
        lengths_B: how many events follow from there.
        queries: positions behind the events that hold none, 0 or 1.
        width: L; 0: the longest sequence.
    """

    def __init__(
        self,
        starts_B: Int64[np.ndarray, "B"],
        lengths_B: Int64[np.ndarray, "B"],
        queries: int = 0,
        width: int = 0,
    ) -> None:
        self.lengths_B = lengths_B + queries
        self.places_L = np.arange(width or self.lengths_B.max())
        self._queries = queries
        self._is_event_BL = self.places_L < lengths_B[:, None]
        self._event_places = (starts_B[:, None] + self.places_L)[self._is_event_BL]

    def rows(self, flat: Int32[np.ndarray, "T"], query: int = 0) -> Int64[np.ndarray, "B L"]:
        """Lay rows out as a padded batch; `query` stands behind the newest event."""
        rows_BL = np.zeros(self._is_event_BL.shape, np.int64)
        rows_BL[self._is_event_BL] = flat[self._event_places]
        if self._queries:
            rows_BL[np.arange(len(rows_BL)), self.lengths_B - 1] = query
        return rows_BL

    def weights(self, flat: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "B L"]:
        """Lay weights out as a padded batch; 0 where there is no event."""
        weights_BL = np.zeros(self._is_event_BL.shape, np.float32)
        weights_BL[self._is_event_BL] = flat[self._event_places]
        return weights_BL

    def seconds(self, flat: Int64[np.ndarray, "T"]) -> Int64[np.ndarray, "B L"]:
        """Lay times out as a padded batch, in seconds; 0 where there is no event."""
        seconds_BL = np.zeros(self._is_event_BL.shape, np.int64)
        seconds_BL[self._is_event_BL] = flat[self._event_places] // MICROSECONDS
        return seconds_BL

    @property
    def is_query_BL(self) -> Bool[np.ndarray, "B L"]:
        """Where a query stands behind the events."""
        is_real_BL = self.places_L < self.lengths_B[:, None]
        return is_real_BL & ~self._is_event_BL


def _history_times(
    slots: _Slots, times_T: Int64[np.ndarray, "T"], asked_B: Int64[np.ndarray, "B"] | None
) -> ItemBatch:
    """Return the times of histories whose last position asks, `asked_B` being when it does so.

    A mask has a place of its own, and so a time; None: that of the newest event. The newest event
    itself has its own time already, and what it asks for has another.
    """
    seconds_BL = slots.seconds(times_T)
    is_query_BL = slots.is_query_BL
    if is_query_BL.any():
        if asked_B is None:
            seconds_BL = times_as_seen(seconds_BL, is_query_BL, slots.lengths_B)
        else:
            seconds_BL[is_query_BL] = asked_B
        return {"timestamps": torch.from_numpy(seconds_BL)}
    times = {"timestamps": torch.from_numpy(seconds_BL)}
    if asked_B is not None:
        asked_BL = np.append(seconds_BL[:, 1:], np.zeros((len(seconds_BL), 1), np.int64), axis=1)
        asked_BL[np.arange(len(asked_BL)), slots.lengths_B - 1] = asked_B
        times["query_timestamps"] = torch.from_numpy(asked_BL)
    return times


def _inputs(
    input_ids_BL: Int64[np.ndarray, "B L"],
    slots: _Slots,
    sequences: Sequences,
    query_behaviour: int = 0,
) -> ItemBatch:
    """Put the keys together that training and recommending share."""
    is_real_BL = slots.places_L < slots.lengths_B[:, None]
    batch = {
        "input_ids": torch.from_numpy(input_ids_BL),
        "attention_mask": torch.from_numpy(is_real_BL.astype(np.int64)),
    }
    if sequences.behaviours is not None:
        behaviours_BL = slots.rows(sequences.behaviours, query=query_behaviour)
        batch["token_type_ids"] = torch.from_numpy(behaviours_BL)
    return batch
