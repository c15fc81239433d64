"""How a classifier reads texts: the same in training and in prediction, saved with the model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.files import written_aside
from idbert.inputs.templates import Templates
from idbert.inputs.text import EncodedTexts, TextSettings, encode_texts
from idbert.inputs.text_checks import check_texts
from idbert.inputs.tokenizers import open_tokenizer
from nlp_tasks.cls.examples import Examples

READING_FILE = "reading.json"
TOKENIZER_FOLDER = "tokenizer"


class TextReader:
    """Turns texts into tokens: repeated templates dropped, tokenized, cut to length.

    Args:
        tokenizer: The model's.
        settings: Length and truncation.
        is_pair: Whether texts come in pairs.
        templates: Sentences to drop, found in the training texts.
        num_token_types: Segments that the encoder tells apart.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: TextSettings,
        *,
        is_pair: bool = False,
        templates: Templates = Templates(),  # noqa: B008 (frozen)
        num_token_types: int = 2,
    ) -> None:
        self.tokenizer, self.settings, self.is_pair = tokenizer, settings, is_pair
        self.templates = templates
        self.num_token_types = num_token_types

    @property
    def pad_id(self) -> int:
        """The id that fills up shorter texts of a batch."""
        return int(self.tokenizer.pad_token_id)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        allow_empty: bool = False,
    ) -> EncodedTexts:
        """Return texts, or pairs of texts, as sequences of token ids.

        Args:
            texts: One a row.
            pairs: The second texts.
            allow_empty: Whether a text may be empty.

        Raises:
            ConfigError: the settings cannot act on pairs.
            DataError: a text is empty, or there are pairs and should be none, or the other way.
        """
        if self.is_pair and pairs is None:
            raise DataError("This classifier reads pairs of texts. Give the second texts as pairs.")
        if not self.is_pair and pairs is not None:
            raise DataError("This classifier reads single texts, not pairs. Leave pairs out.")
        texts = _as_list(texts)
        pairs = None if pairs is None else _as_list(pairs)
        if self.templates.sentences:
            check_texts(texts, allow_empty=True)
            texts = self.templates.drop(texts)
            if pairs is not None:
                check_texts(pairs, allow_empty=True)
                pairs = self.templates.drop(pairs)
        return encode_texts(
            texts,
            self.tokenizer,
            self.settings,
            pairs,
            allow_empty=allow_empty,
            num_token_types=self.num_token_types,
        )

    def encode_examples(self, examples: Examples) -> EncodedTexts:
        """Return the texts of examples, or their pairs, as sequences of token ids."""
        return self.encode(examples.texts, examples.pairs)

    def save(self, run: Path) -> None:
        """Write tokenizer and settings into the folder of a run."""
        self.templates.save(run)
        with written_aside(run / TOKENIZER_FOLDER) as folder:
            self.tokenizer.save_pretrained(folder)
        value = {
            "text": asdict(self.settings),
            "is_pair": self.is_pair,
            "num_token_types": self.num_token_types,
        }
        with written_aside(run / READING_FILE) as aside:
            aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, run: Path) -> "TextReader":
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing or holds something else.
        """
        file = run / READING_FILE
        try:
            value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            settings = TextSettings(**value.pop("text"))
            templates = Templates.load(run)
            return cls(
                open_tokenizer(run / TOKENIZER_FOLDER), settings, templates=templates, **value
            )
        except FileNotFoundError as error:
            raise CheckpointError(f"{run} holds no {READING_FILE}. Copy the run again.") from error
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(
                f"{file} does not say how texts are read: {error}. Copy the run again."
            ) from error


def _as_list(texts: Sequence[str]) -> Sequence[str]:
    """Return texts by their places: a column of a DataFrame is read by labels, in any order.

    One text alone is left for the checks to refuse.
    """
    return texts if isinstance(texts, str) else list(texts)
