"""Sentences that stand in many texts, such as greetings and signatures, and say nothing."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idbert.errors import ConfigError, DataError
from idbert.files import written_aside
from idbert.inputs.key_sentences import split_sentences

logger = logging.getLogger(__name__)

_FILE = "templates.json"
_HAS_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class TemplateSettings:
    """Which sentences count as templates."""

    share: float | int | None = None
    """Sentences that stand in at least this share of the training texts are dropped everywhere;
    null: none is."""
    min_texts: int = 10
    """And in at least so many texts."""

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; it must be above 0 and at most 1, or null.")
        if self.min_texts < 2:
            raise ConfigError(f"min_texts is {self.min_texts}; it must be at least 2.")
        if self.share is None and self.min_texts != TemplateSettings.min_texts:
            raise ConfigError("min_texts only acts beside a share. Give one, or leave it out.")


@dataclass(frozen=True)
class Templates:
    """Sentences to be dropped, found in the training texts.

    Attributes:
        sentences: without the blanks around them.
    """

    sentences: frozenset[str] = frozenset()

    @classmethod
    def find(cls, texts: Sequence[str], settings: TemplateSettings) -> "Templates":
        """Return the sentences that stand in many texts; a text counts once.

        Args:
            texts: of the training part.
            settings: how many are many.
        """
        if settings.share is None:
            return cls()
        counts = Counter(
            sentence
            for text in texts
            for sentence in {part.strip() for part in split_sentences(text)}
            if _HAS_WORD.search(sentence)
        )
        least = max(settings.min_texts, settings.share * len(texts))
        found = [(sentence, count) for sentence, count in counts.most_common() if count >= least]
        for sentence, count in found[:5]:
            logger.info("template in %d of %d texts: %.60s", count, len(texts), sentence)
        return cls(frozenset(sentence for sentence, _ in found))

    def drop(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without these sentences; a text of nothing else is left as it is."""
        if not self.sentences:
            return list(texts)
        shorter = []
        num_dropped = 0
        for text in texts:
            parts = split_sentences(text)
            kept = [part for part in parts if part.strip() not in self.sentences]
            is_changed = len(kept) < len(parts) and any(_HAS_WORD.search(part) for part in kept)
            shorter.append("".join(kept).strip() if is_changed else text)
            num_dropped += is_changed * (len(parts) - len(kept))
        changed = np.count_nonzero(
            [new is not old for new, old in zip(shorter, texts, strict=True)]
        )
        logger.info(
            "templates: %d sentences left out of %d of %d texts", num_dropped, changed, len(texts)
        )
        return shorter

    def save(self, folder: str | Path) -> None:
        """Write `templates.json` into `folder`."""
        text = json.dumps(sorted(self.sentences), ensure_ascii=False, indent=1)
        with written_aside(Path(folder) / _FILE) as path:
            path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Templates":
        """Read what `save` wrote into `folder`.

        Raises:
            DataError: the file is missing or holds something else.
        """
        path = Path(folder) / _FILE
        try:
            sentences = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}). Copy the folder again.") from None
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
            raise DataError(f"{path} holds no list of sentences: it was changed by hand.")
        return cls(frozenset(sentences))
