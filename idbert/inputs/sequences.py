"""Turns interactions into what every user did, oldest event first: one sequence a user."""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Int64

from idbert.errors import ConfigError, DataError
from idbert.inputs.flat_arrays import event_chunks
from idbert.inputs.item_times import DAY
from idbert.inputs.user_slices import Sequences, offsets_of
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import UNK
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT, Interactions

__all__ = [
    "SequenceSettings",
    "Sequences",
    "build_sequences",
    "in_windows",
    "log_left_out",
    "mean_weight",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SequenceSettings:
    """How much of a user's history becomes a sequence."""

    max_length: int | None = 200
    """Events kept of each user, the newest ones; null: all of them. A next-item model with L
    positions can use L + 1 events: the first is only an input, the last only a target."""
    min_length: int = 1
    """Users (or sessions) with fewer known events are left out; 0 keeps everybody."""
    window_stride: int | None = None
    """Cuts longer histories into several sequences for training, each of max_length events, one
    every so many events from the newest backwards; the oldest of a user has what is left. null:
    only the newest max_length events are trained on. At most max_length, at which each event is in
    one sequence. With max_length - 1 a next-item model is asked once for each event but the first.
    What is evaluated and recommended from stays the newest events."""
    session_gap_s: float | None = None
    """Cut each user's training events wherever two are more than so many seconds apart: every
    session is a sequence of its own. null: one sequence a user. Held-out histories stay whole."""
    half_life_days: float | None = None
    """Events count less in the loss the older they are: half as much for each so many days before
    the newest event of the training part, times their own weight, if they have one. What is popular
    now is then told from what was popular once. null: all alike."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1, or null.")
        if self.min_length < 0:
            raise ConfigError(f"min_length is {self.min_length}; it must be at least 0.")
        if self.max_length is not None and self.min_length > self.max_length:
            raise ConfigError(
                f"min_length {self.min_length} is above max_length {self.max_length}: "
                "no sequence can be that long."
            )
        if self.session_gap_s is not None and not self.session_gap_s >= 0:
            raise ConfigError(
                f"session_gap_s is {self.session_gap_s}; it must be at least 0 seconds, or null."
            )
        if self.half_life_days is not None and not self.half_life_days > 0:
            raise ConfigError(
                f"half_life_days is {self.half_life_days}; it must be above 0 days, or null."
            )
        if self.window_stride is None:
            return
        if self.max_length is None:
            raise ConfigError(
                f"window_stride {self.window_stride} cannot act on whole histories. Set "
                "max_length, or leave it out."
            )
        if not 1 <= self.window_stride <= self.max_length:
            raise ConfigError(
                f"window_stride is {self.window_stride}; it must be from 1 to max_length "
                f"{self.max_length}, beyond which events would be in no window."
            )


def build_sequences(
    interactions: Interactions,
    vocabulary: Vocabulary,
    settings: SequenceSettings = SequenceSettings(),  # noqa: B008 (frozen)
) -> Sequences:
    """Turn a table of interactions into one sequence of vocabulary rows a user, or a session.

    Events whose item is not in the vocabulary are left out, as they are when recommending; then
    only the newest `max_length` events of a user are kept, or with `window_stride` all of them, in
    several sequences that are slices. All is counted and logged. Weights, those of age included,
    are divided by their mean over the kept events, so that they do not change the learning rate.

    Args:
        interactions: sorted by user and time, as `read_interactions` returns them.
        vocabulary: of the same log, or of the run whose model goes on training.
        settings: lengths.

    Raises:
        DataError: item ids of another type than the vocabulary's; behaviours missing or unknown;
            weights that are all zero; sessions or ages of events without real times.
    """
    if settings.session_gap_s is not None:
        whole, _ = _in_rows(interactions, vocabulary, SequenceSettings(None, 0), mean_is_1=False)
        part = cut(whole, settings)
        return part if settings.window_stride is not None else part.packed()
    sequences, num_short = _in_rows(interactions, vocabulary, settings, mean_is_1=True)
    sequences = in_windows(weighted_by_age(sequences, settings.half_life_days), settings)
    log_left_out(sequences, settings, num_short)
    return sequences


def _in_rows(
    interactions: Interactions,
    vocabulary: Vocabulary,
    settings: SequenceSettings,
    *,
    mean_is_1: bool,
) -> tuple[Sequences, int]:
    """Return one sequence a user, and how many users were left out; weights as given or divided."""
    rows_T = vocabulary.rows(interactions.column(ITEM))
    known_T = rows_T != UNK
    before = interactions.user_offsets()
    known_U = np.diff(np.concatenate([[0], np.cumsum(known_T)])[before])
    kept_U = known_U >= settings.min_length
    keep_T = known_T & np.repeat(kept_U, np.diff(before))
    num_dropped = 0
    if settings.max_length is not None and settings.window_stride is None:
        newest_T = _newest(keep_T, np.diff(before), settings.max_length)
        num_dropped = int(keep_T.sum() - newest_T.sum())
        keep_T = newest_T
        known_U = np.minimum(known_U, settings.max_length)

    others = [name for name in interactions.table.column_names if name not in (USER, ITEM)]
    table = interactions.table.select(others).filter(pa.array(keep_T))
    sequences = Sequences(
        interactions.column(USER).take(pa.array(before[:-1][kept_U])).combine_chunks(),
        rows_T[keep_T].astype(np.int32),
        offsets_of(known_U[kept_U]),
        table.column(TIME).to_numpy() if interactions.times_are_real else None,
        _behaviours(table, vocabulary),
        _weights(table, mean_is_1),
        num_dropped_events=num_dropped,
        num_unknown_events=int((~known_T).sum()),
    )
    return sequences, int((~kept_U).sum())


def cut(whole: Sequences, settings: SequenceSettings) -> Sequences:
    """Return slices of whole sequences, as the settings say; only weights are copied.

    Args:
        whole: all events of each user that are to be seen.
        settings: sessions, lengths and windows; users without events are always left out.

    Raises:
        DataError: there are sessions or ages and no real times, or the weights are all zero.
    """
    if settings.session_gap_s is not None:
        whole = whole.sessions(settings.session_gap_s)
    kept_U = whole.lengths >= max(settings.min_length, 1)
    num_short = int(np.count_nonzero(~kept_U & (whole.lengths > 0)))
    part = whole.of_users(kept_U)
    if settings.max_length is not None and settings.window_stride is None:
        part = part.newest(settings.max_length)
    if part.weights is not None and len(part):
        seen_T = part.replaced(times=None, behaviours=None).packed().weights
        assert seen_T is not None
        part = part.replaced(weights=part.weights / mean_weight(seen_T))
    part = in_windows(weighted_by_age(part, settings.half_life_days), settings)
    log_left_out(part, settings, num_short)
    return part


def weighted_by_age(sequences: Sequences, half_life_days: float | int | None) -> Sequences:
    """Return slices whose events count 0.5^(age / half-life) times as much in the loss, mean 1.

    Args:
        sequences: weights may be there already.
        half_life_days: in which an event's weight halves, counted from the newest event that is
            seen; None: nothing is changed.

    Raises:
        DataError: there are no real times.
    """
    if half_life_days is None or not sequences.lengths.any():
        return sequences
    if sequences.times is None:
        raise DataError(
            "events are weighed by their age, and these have only an order. Leave half_life_days "
            "out, or set time_column or time_unit if the log has times."
        )
    newest = sequences.times[sequences.stops[sequences.lengths > 0] - 1].max()
    weights_T = np.empty(len(sequences.times), np.float32)
    for chunk in event_chunks(len(weights_T)):
        # What is not seen may be newer than what is.
        age_T = (newest - sequences.times[chunk]).clip(min=0) / DAY
        weights_T[chunk] = np.exp2(-age_T / half_life_days)
        if sequences.weights is not None:
            weights_T[chunk] *= sequences.weights[chunk]
    part = sequences.replaced(weights=weights_T)
    seen_T = part.replaced(times=None, behaviours=None).packed().weights
    assert seen_T is not None
    weights_T /= mean_weight(seen_T)
    return part


def in_windows(sequences: Sequences, settings: SequenceSettings) -> Sequences:
    """Return whole histories as overlapping slices, where the settings ask for it, and log it."""
    if settings.window_stride is None or settings.max_length is None:
        return sequences
    windows = sequences.windows(settings.max_length, settings.window_stride)
    logger.info(
        "%d histories cut into %d windows of at most %d events, every %d events; %d events in them",
        len(sequences),
        len(windows),
        settings.max_length,
        settings.window_stride,
        int(windows.lengths.sum()),
    )
    return windows


def log_left_out(sequences: Sequences, settings: SequenceSettings, num_short: int) -> None:
    """Log how many sequences there are, and what the settings left out of them."""
    is_cut = settings != SequenceSettings(max_length=None, min_length=0)
    logger.log(
        logging.INFO if is_cut or sequences.num_unknown_events else logging.DEBUG,
        "%d sequences, %d events; left out: %d events older than the newest %s of a user, "
        "%d events of unknown items, %d users (or sessions) with fewer than %d events",
        len(sequences),
        int(sequences.lengths.sum()),
        sequences.num_dropped_events,
        settings.max_length or "(all)",
        sequences.num_unknown_events,
        num_short,
        settings.min_length,
    )


def _newest(
    keep_T: Bool[np.ndarray, "T"], lengths_U: Int64[np.ndarray, "U"], max_length: int
) -> Bool[np.ndarray, "T"]:
    """Keep of each user only the last `max_length` of the events that are kept so far."""
    seen_T = np.cumsum(keep_T)
    last_T = np.repeat(seen_T[np.cumsum(lengths_U) - 1], lengths_U)
    newest_T: np.ndarray = keep_T & (last_T - seen_T < max_length)
    return newest_T


def _behaviours(table: pa.Table, vocabulary: Vocabulary) -> Int32[np.ndarray, "T"] | None:
    if not vocabulary.behaviours:
        return None
    if BEHAVIOUR not in table.column_names:
        raise DataError(
            f"the vocabulary was made with behaviours ({', '.join(vocabulary.behaviours)}), "
            f"but the interactions have no column '{BEHAVIOUR}'. "
            "Name it with --data.behaviour_column."
        )
    return vocabulary.behaviour_rows(table.column(BEHAVIOUR)).astype(np.int32)


def _weights(table: pa.Table, mean_is_1: bool) -> Float32[np.ndarray, "T"] | None:
    if WEIGHT not in table.column_names or table.num_rows == 0:
        return None
    weights: np.ndarray = table.column(WEIGHT).to_numpy().astype(np.float32)
    return weights / mean_weight(weights) if mean_is_1 else weights


def mean_weight(weights: Float32[np.ndarray, "T"]) -> np.float32:
    """Return the mean weight of events, by which weights are divided.

    Raises:
        DataError: it is 0.
    """
    mean = weights.mean(dtype=np.float64)
    if not mean > 0:
        raise DataError(
            f"column '{WEIGHT}': the mean weight is {mean:g}; it must be above 0 to train on."
        )
    return np.float32(mean)
