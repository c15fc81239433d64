"""What a reader without a pretrained encoder reads: characters, and the words that they are in."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from idbert.errors import CheckpointError
from idbert.inputs.words import pieces_of

logger = logging.getLogger(__name__)

WORDS_FILE = "words.json"
NO_WORD, UNKNOWN_WORD = 0, 1
"""Rows of the word vectors: of blanks and special tokens, and of words that are not known."""
NUM_SPECIAL_WORDS = 2
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordVocabulary:
    """The words of the training texts, as jieba cuts them, in lower case.

    Args:
        words: Without doubles; the first has the id 2.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: place for place, word in enumerate(self.words, NUM_SPECIAL_WORDS)}

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.words) + NUM_SPECIAL_WORDS

    @classmethod
    def build(
        cls, texts: Iterable[str], *, min_count: int = 2, max_words: int = 50_000
    ) -> "WordVocabulary":
        """Collect the words of texts.

        Args:
            texts: Of the training part.
            min_count: How often a word must occur.
            max_words: Of more, the most frequent are kept.
        """
        counts = Counter(
            piece.lower() for text in texts for piece in pieces_of(text) if not piece.isspace()
        )
        frequent = [word for word, count in counts.items() if count >= min_count]
        frequent.sort(key=lambda word: (-counts[word], word))
        logger.info("%d words, of which %d are kept", len(counts), len(frequent[:max_words]))
        return cls(frequent[:max_words])

    def of_characters(self, texts: Sequence[str]) -> Int32[np.ndarray, "_"]:
        """Return the id of the word that each character is in, all texts end to end."""
        pieces = list(chain.from_iterable(map(pieces_of, texts)))
        ids = [
            NO_WORD if piece.isspace() else self._ids.get(piece.lower(), UNKNOWN_WORD)
            for piece in pieces
        ]
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
        return np.repeat(np.array(ids, np.int32), sizes)

    def save(self, folder: Path) -> None:
        """Write the words into a folder."""
        text = json.dumps(self.words, ensure_ascii=False, indent=0)
        (folder / WORDS_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "WordVocabulary":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or holds no list of words.
        """
        file = folder / WORDS_FILE
        try:
            words = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Copy the run again.") from error
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise CheckpointError(f"{file} holds no list of words. Copy the run again.")
        return cls(words)


def character_tokenizer(texts: Iterable[str], *, min_count: int = 2) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are the characters of texts, in lower case, blanks left out.

    Args:
        texts: Of the training part.
        min_count: How often a character must occur; others are unknown.
    """
    counts = Counter(chain.from_iterable(text.lower() for text in texts))
    characters = sorted(c for c, n in counts.items() if n >= min_count and not c.isspace())
    ids = {token: place for place, token in enumerate((*SPECIAL_TOKENS, *characters))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    roles = ("pad", "unk", "cls", "sep", "mask")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in zip(roles, SPECIAL_TOKENS, strict=True)},
    )
