"""How popular items have been lately, beside how popular they have been in all of a log.

A model that was trained on months knows the items' popularity over these months. Where it is used
now, that of now is right: a softmax that has learned p(item | history) under one distribution of
items is right under another after a shift of each score by the log of their ratio.

Source: Saerens, Latinne and Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a
Priori Probabilities: A Simple Procedure"; as an addition to scores Menon et al. 2021, "Long-tail
Learning via Logit Adjustment".
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from idbert.errors import ConfigError, DataError
from idbert.inputs.flat_arrays import user_chunks
from idbert.inputs.item_times import DAY
from idbert.inputs.special_tokens import positions_of
from idbert.inputs.user_slices import Sequences, offsets_of

STRENGTH, PRIOR_EVENTS = 1.5, 2.0
"""Chosen on the validation part of a time split of MovieLens-100K."""


@dataclass(frozen=True)
class PopularitySettings:
    """How scores follow what has been popular lately."""

    recent_days: float | None = None
    """Scores are shifted, in all uses but the training itself, from the popularity of items over
    the whole training part to that in its last so many days. null: they stay as learned."""

    strength: float | int = STRENGTH
    """Of the shift: 1 is what Bayes' rule says where both popularities are known for certain."""

    prior_events: float | int = PRIOR_EVENTS
    """What each item is taken to have had besides, recently and usually: the more, the less do a
    few recent events, or none, say of a rare item."""

    def __post_init__(self) -> None:
        for name in ("recent_days", "strength", "prior_events"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"popularity.{name} is {value}; it must be above 0.")
        usual = (STRENGTH, PRIOR_EVENTS)
        if self.recent_days is None and (self.strength, self.prior_events) != usual:
            raise ConfigError(
                "popularity.strength and popularity.prior_events cannot act without "
                "popularity.recent_days. Say how many days are recent."
            )


def popularity_shift(
    events: Sequences, vocab_size: int, settings: PopularitySettings
) -> Float32[np.ndarray, "V"]:
    """Return what is added to the score of each vocabulary row.

        shift_v = strength * log((recent_v + k) / (usual_v + k)), k = prior_events

    with recent_v the events of v in the last days, and usual_v as many as it had if it were as
    popular as in the whole: the mean of what multiplies its rate, where that is Gamma(k, k)
    beforehand. Rows that never occur in the training part have no shift.

    Args:
        events: the whole training part; slices of a mapped log are read in chunks.
        vocab_size: V.
        settings: with `recent_days`.

    Raises:
        DataError: there are no real times.
    """
    if events.times is None:
        raise DataError(
            "popularity.recent_days counts days, and these events only have an order. Leave it "
            "out, or set time_column or time_unit if the log has times."
        )
    assert settings.recent_days is not None
    seen_U = events.lengths > 0
    newest = events.times[events.stops[seen_U] - 1].max(initial=0)
    counts_2V = np.zeros((2, vocab_size), np.int64)
    for users in user_chunks(offsets_of(events.lengths)):
        places_T = positions_of(events.starts[users], events.lengths[users])
        items_T = events.items[places_T]
        is_recent_T = events.times[places_T] > newest - settings.recent_days * DAY
        counts_2V[0] += np.bincount(items_T, minlength=vocab_size)
        counts_2V[1] += np.bincount(items_T[is_recent_T], minlength=vocab_size)
    of_whole, recent = np.maximum(counts_2V.sum(axis=1), 1)
    usual_V = counts_2V[0] * (recent / of_whole)
    ratio_V = (counts_2V[1] + settings.prior_events) / (usual_V + settings.prior_events)
    shift_V: np.ndarray = (settings.strength * np.log(ratio_V)).astype(np.float32)
    shift_V[counts_2V[0] == 0] = 0.0
    return shift_V
