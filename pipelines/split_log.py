"""The log of a run, cut into its parts: read as a table, or mapped from a prepared folder."""

from dataclasses import dataclass

from idbert.errors import ConfigError
from idbert.inputs.prepared_log import Part, PreparedLog
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.splits import HeldOut, Split
from idbert.inputs.splits import split as split_log
from idbert.inputs.vocabulary import Vocabulary
from idbert.tables import ITEM
from idbert.training.validation import Validation
from pipelines.corridor import WHOLE, LogSettings, open_prepared, read_log


@dataclass(frozen=True, eq=False)
class SplitLog:
    """What is trained on and what is held out, as vocabulary rows.

    Attributes:
        vocabulary: of the log, or of the run that is evaluated.
        parts: of the table, or the prepared log, which gives the same.
    """

    vocabulary: Vocabulary
    parts: Split | PreparedLog

    def train(self, settings: SequenceSettings) -> Sequences:
        """Return the training part, one sequence a user."""
        if isinstance(self.parts, PreparedLog):
            return self.parts.train(settings)
        return build_sequences(self.parts.train, self.vocabulary, settings)

    def held_out(self, part: Part, max_length: int | None) -> Validation:
        """Return whole histories and target rows, user by user.

        Args:
            part: validation or test.
            max_length: the newest events of a history that a model reads.
        """
        if isinstance(self.parts, PreparedLog):
            histories, targets_U = self.parts.held_out(part)
            query_times_U = self.parts.target_times(part)
        else:
            withheld = self._withheld(self.parts, part)
            histories = build_sequences(withheld.histories, self.vocabulary, WHOLE)
            targets_U = self.vocabulary.rows(withheld.targets.column(ITEM))
            query_times_U = withheld.target_times()
        return Validation(histories, targets_U, max_length=max_length, query_times_U=query_times_U)

    def known(self, part: Part) -> Sequences:
        """Return all events of all users that come before the targets."""
        if isinstance(self.parts, PreparedLog):
            return self.parts.known(part)
        return build_sequences(self._withheld(self.parts, part).known, self.vocabulary, WHOLE)

    @staticmethod
    def _withheld(parts: Split, part: Part) -> HeldOut:
        return parts.test if part == "test" else parts.validation


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
        return SplitLog(vocabulary or prepared.vocabulary, prepared)
    interactions = read_log(settings.data)
    parts = split_log(interactions, settings.split)
    return SplitLog(vocabulary or Vocabulary.from_interactions(interactions, parts.train), parts)
