"""What texts must be before a model reads them."""

import logging
from collections.abc import Sequence

import numpy as np

from idbert.errors import DataError
from idbert.inputs.tokens import FlatTokens

logger = logging.getLogger(__name__)


def check_texts(texts: Sequence[str], *, allow_empty: bool = False) -> None:
    """Refuse what cannot be encoded, before a tokenizer sees it.

    Raises:
        DataError: a row holds something else than a text, half a character, or an empty text.
    """
    if isinstance(texts, str):
        raise DataError(f"texts are a list of texts, not one text. Give [{texts[:20]!r}].")
    foreign = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if foreign:
        raise DataError(
            f"{len(foreign)} of {len(texts)} rows hold no text: {_rows(foreign)} "
            f"(the first holds {texts[foreign[0]]!r})."
        )
    broken = [row for row, text in enumerate(texts) if not is_unicode(text)]
    if broken:
        raise DataError(
            f"{len(broken)} of {len(texts)} texts hold half a character, a lone surrogate: "
            f"{_rows(broken)}. Mend what made the texts, or leave these rows out."
        )
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty and not allow_empty:
        raise DataError(
            f"{len(empty)} of {len(texts)} texts are empty: {_rows(empty)}. "
            "Leave these rows out, or give them a text."
        )


def is_unicode(text: str) -> bool:
    """Say whether a text can be written as UTF-8, which JSON's escapes do not ensure."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def count_unknown(
    parts: Sequence[Sequence[str]], tokens: Sequence[FlatTokens], unknown_id: int | None
) -> int:
    """Count the rows with a text of nothing but unknown tokens, or of none, and warn of them.

    Args:
        parts: the texts, and the second texts of pairs.
        tokens: of each of the two.
        unknown_id: the tokenizer's.
    """
    unknown_N = np.zeros(len(parts[0]), bool)
    for texts, flat in zip(parts, tokens, strict=True):
        is_known_T = flat.ids != (-1 if unknown_id is None else unknown_id)
        known_T = np.concatenate([[0], np.cumsum(is_known_T)])
        rows = np.flatnonzero(np.diff(known_T[flat.offsets]) == 0)
        unknown_N[[row for row in rows.tolist() if texts[row].strip()]] = True
    unknown = np.flatnonzero(unknown_N).tolist()
    if unknown:
        logger.warning(
            "%d of %d texts hold no token that the tokenizer knows, %s: the model can only guess "
            "there. Is it a tokenizer for this language?",
            len(unknown),
            len(unknown_N),
            _rows(unknown),
        )
    return len(unknown)


def _rows(rows: list[int]) -> str:
    """Name rows, the first five of them."""
    named = ", ".join(str(row) for row in rows[:5])
    return f"row {named}" if len(rows) == 1 else f"rows {named}{', ...' if len(rows) > 5 else ''}"
