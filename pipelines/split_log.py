"""The log of a run, cut into its parts: read as a table, or mapped from a prepared folder."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from idbert import processes
from idbert.errors import ConfigError, DataError
from idbert.inputs.popularity import PopularitySettings, popularity_shift
from idbert.inputs.prepared_log import Part, PreparedLog
from idbert.inputs.queries import one_by_one
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.special_tokens import positions_of
from idbert.inputs.splits import HeldOut, Split
from idbert.inputs.splits import split as split_log
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import UNK
from idbert.tables import ITEM
from idbert.training.validation import Validation
from pipelines.cli import logger
from pipelines.corridor import WHOLE, LogSettings, open_prepared, read_log

LOOKED_AT = 10_000
"""Queries by which it is told how many targets are repeats."""

LARGE_SHARE = 0.01
"""Of the targets that are repeats: above it figures mean little where seen items are left out."""


@dataclass(frozen=True, eq=False)
class SplitLog:
    """What is trained on and what is held out, as vocabulary rows.

    Attributes:
        vocabulary: of the log, or of the run that is evaluated.
        parts: of the table, or the prepared log, which gives the same.
        has_validation: whether the validation part is only chosen by, and not trained on.
    """

    vocabulary: Vocabulary
    parts: Split | PreparedLog
    has_validation: bool

    def train(self, settings: SequenceSettings) -> Sequences:
        """Return the training part, one sequence a user."""
        if isinstance(self.parts, PreparedLog):
            return self.parts.train(settings)
        return build_sequences(self.parts.train, self.vocabulary, settings)

    def popularity_shift(self, settings: PopularitySettings) -> Float32[np.ndarray, "V"] | None:
        """Return what the items' scores are shifted by; None where the settings ask for nothing.

        Raises:
            DataError: there are no real times.
        """
        if settings.recent_days is None:
            return None
        return popularity_shift(self.train(WHOLE), len(self.vocabulary), settings)

    def held_out(
        self, part: Part, max_length: int | None, *, filter_seen: bool = True
    ) -> Validation:
        """Return target rows with their whole histories, user by user.

        Args:
            part: validation or test.
            max_length: see `Validation`.
            filter_seen: see `Validation`.

        Raises:
            DataError: a target's item is not in the vocabulary.
        """
        if isinstance(self.parts, PreparedLog):
            asked = self.parts.held_out(part)
        else:
            withheld = self._withheld(self.parts, part)
            self._check_known(withheld)
            events = build_sequences(withheld.whole(), self.vocabulary, WHOLE)
            asked = one_by_one(events, np.diff(withheld.targets.user_offsets()))
        return Validation(
            asked.histories,
            asked.targets_Q,
            max_length,
            filter_seen,
            users_Q=asked.users_Q,
            query_times_Q=asked.times_Q,
        )

    def validation(self, max_length: int | None, *, filter_seen: bool = True) -> Validation | None:
        """Return what the best epoch is chosen by; None where it is trained on."""
        if not self.has_validation:
            return None
        held_out = self.held_out("validation", max_length, filter_seen=filter_seen)
        if filter_seen and processes.is_writer():
            _warn_of_repeats(held_out)
        return held_out

    def known(self, part: Part) -> Sequences:
        """Return all events of all users that come before the targets."""
        if isinstance(self.parts, PreparedLog):
            return self.parts.known(part)
        return build_sequences(self._withheld(self.parts, part).known, self.vocabulary, WHOLE)

    def _check_known(self, withheld: HeldOut) -> None:
        unknown = np.count_nonzero(self.vocabulary.rows(withheld.targets.column(ITEM)) == UNK)
        if unknown:
            raise DataError(
                f"{unknown} of {len(withheld)} targets are of items that the run's vocabulary does "
                "not hold: the log has changed since. Train anew on it."
            )

    @staticmethod
    def _withheld(parts: Split, part: Part) -> HeldOut:
        return parts.test if part == "test" else parts.validation


def _warn_of_repeats(held_out: Validation) -> None:
    """Say where many targets are items of their histories, which are not recommended again.

    Of many queries some are looked at, evenly, so that a mapped log stays where it is.
    """
    if not len(held_out):
        return
    histories = held_out.histories
    chosen = np.unique(np.linspace(0, len(held_out) - 1, LOOKED_AT).astype(np.int64))
    lengths = histories.lengths[chosen]
    items_T = histories.items[positions_of(histories.starts[chosen], lengths)]
    is_target_T = items_T == np.repeat(held_out.targets_Q[chosen], lengths)
    repeated = len(np.unique(np.repeat(chosen, lengths)[is_target_T])) / len(chosen)
    if repeated > LARGE_SHARE:
        logger.warning(
            "%.1f %% of the targets of the validation part repeat an item of their history. Such "
            "items are not recommended, but these targets stay in the ranking, among unseen items "
            "alone, so that figures are too high. --filter_seen false ranks seen items too; "
            "--data.drop_repeats true leaves repeats out.",
            100 * repeated,
        )


def read_split_log(settings: LogSettings, vocabulary: Vocabulary | None = None) -> SplitLog:
    """Read and split the log that the settings name.

    Args:
        settings: of the log and the split.
        vocabulary: of the run to evaluate; None: it is made of the log.

    Raises:
        ConfigError: the run was trained on another catalogue than the prepared log's.
    """
    prepared = open_prepared(settings.data)
    if prepared is not None:
        if vocabulary and vocabulary.fingerprint() != prepared.vocabulary.fingerprint():
            raise ConfigError(
                f"{settings.data.source} holds another catalogue than the run was trained on: "
                f"{prepared.vocabulary.num_items:,} items there, {vocabulary.num_items:,} in the "
                "run, or in another order. It was prepared anew since: train anew, too."
            )
        return SplitLog(vocabulary or prepared.vocabulary, prepared, prepared.split.has_validation)
    interactions = read_log(settings.data)
    parts = split_log(interactions, settings.split)
    vocabulary = vocabulary or Vocabulary.from_interactions(interactions, parts.train)
    return SplitLog(vocabulary, parts, settings.split.has_validation)
