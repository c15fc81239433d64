"""How a reader reads questions: the same in training and in answering, saved with the model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.files import written_aside
from idbert.inputs.text_checks import check_texts
from idbert.inputs.tokenizers import open_tokenizer
from nlp_tasks.mrc.batches import ReadingData
from nlp_tasks.mrc.formats import Questions
from nlp_tasks.mrc.tokens import PlacedTokens, place_tokens
from nlp_tasks.mrc.windows import (
    ContextWindows,
    WindowSettings,
    answer_positions,
    check_questions,
    make_windows,
)
from nlp_tasks.mrc.word_vocabulary import WordVocabulary

READING_FILE = "reading.json"
TOKENIZER_FOLDER = "tokenizer"


class QuestionReader:
    """Turns questions and contexts into windows of tokens.

    Args:
        tokenizer: The model's.
        settings: Length and stride.
        num_token_types: Segments that the model tells apart.
        words: The words whose vectors the model reads beside its tokens; None: it reads none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: WindowSettings,
        *,
        num_token_types: int = 2,
        words: WordVocabulary | None = None,
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.num_token_types, self.words = num_token_types, words

    @property
    def pad_id(self) -> int:
        """The id that fills up shorter windows of a batch."""
        return int(self.tokenizer.pad_token_id)

    def windows(self, texts: Sequence[str], contexts: Sequence[str]) -> ContextWindows:
        """Return the windows of questions.

        Args:
            texts: The questions.
            contexts: The context of each; one that is given several times is tokenized once.

        Raises:
            DataError: a question or a context is empty or no text, there is another number of
                contexts, or a question is too long and the settings refuse that.
        """
        for name, given in (("questions", texts), ("contexts", contexts)):
            try:
                check_texts(given)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
        if len(texts) != len(contexts):
            raise DataError(
                f"{len(texts)} questions have {len(contexts)} contexts. Give each one its own."
            )
        distinct, context_of_question = _distinct(contexts)
        return make_windows(
            self._tokens(texts),
            self._tokens(distinct),
            context_of_question,
            self.tokenizer,
            self.settings,
            num_token_types=self.num_token_types,
        )

    def check(self, questions: Questions) -> None:
        """Check before a training what is read behind it.

        Raises:
            DataError: a question is too long, and the settings refuse that.
        """
        if self.settings.long_questions == "refuse":
            try:
                check_questions(self._tokens(questions.texts), self.settings)
            except DataError as error:
                raise DataError(f"{questions.source}: {error}") from None

    def data(self, questions: Questions) -> ReadingData:
        """Return the windows of questions with their answers, to train on."""
        windows = self.windows(questions.texts, questions.contexts)
        return ReadingData(windows, self.positions(windows, questions), pad_id=self.pad_id)

    def positions(self, windows: ContextWindows, questions: Questions) -> Int64[np.ndarray, "N 2"]:
        """Return where the answer of each window begins and ends; (0, 0): it has none."""
        return answer_positions(windows, questions.rows, _distinct(questions.contexts)[1])

    def _tokens(self, texts: Sequence[str]) -> PlacedTokens:
        tokens = place_tokens(texts, self.tokenizer)
        return tokens if self.words is None else tokens.with_words(self.words.of_characters(texts))

    def save(self, run: Path) -> None:
        """Write tokenizer, words and settings into the folder of a run."""
        with written_aside(run / TOKENIZER_FOLDER) as folder:
            self.tokenizer.save_pretrained(folder)
            if self.words is not None:
                self.words.save(folder)
        value = {
            "windows": asdict(self.settings),
            "num_token_types": self.num_token_types,
            "words": self.words is not None,
        }
        with written_aside(run / READING_FILE) as aside:
            aside.write_text(json.dumps(value, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, run: Path) -> "QuestionReader":
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing or holds something else.
        """
        file = run / READING_FILE
        try:
            value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            settings = WindowSettings(**value["windows"])
            folder = run / TOKENIZER_FOLDER
            return cls(
                open_tokenizer(folder),
                settings,
                num_token_types=value["num_token_types"],
                words=WordVocabulary.load(folder) if value["words"] else None,
            )
        except FileNotFoundError as error:
            raise CheckpointError(f"{run} holds no {READING_FILE}. Copy the run again.") from error
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(
                f"{file} does not say how questions are read: {error}. Copy the run again."
            ) from error


def _distinct(contexts: Sequence[str]) -> tuple[list[str], Int64[np.ndarray, "_"]]:
    """Return each context once, and which of them each question has."""
    numbers = {context: number for number, context in enumerate(dict.fromkeys(contexts))}
    return list(numbers), np.array([numbers[context] for context in contexts], np.int64)
