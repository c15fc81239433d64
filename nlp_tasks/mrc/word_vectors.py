"""Pretrained word vectors, in the text that word2vec, GloVe and fastText write."""

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from idbert.errors import DataError
from nlp_tasks.mrc.word_vocabulary import NO_WORD, NUM_SPECIAL_WORDS, WordVocabulary
from nlp_tasks.tables import show

logger = logging.getLogger(__name__)


def read_word_vectors(
    source: str | Path, *, max_words: int
) -> tuple[list[str], Float32[np.ndarray, "_ D"]]:
    """Read the first words of a file, in lower case, each once.

    Args:
        source: a word and its numbers a line, most frequent words first; there may be a first line
            that says how many words there are and how many numbers each has.
        max_words: how many lines are read.

    Returns:
        The words, and their vectors, of length 1 in the mean.

    Raises:
        DataError: the file cannot be read, or a line has another form.
    """
    path = Path(source).expanduser()
    vectors: dict[str, np.ndarray] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for word, vector in _rows(file, str(path), max_words):
                vectors.setdefault(word.lower(), vector)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8. Binary files of word2vec are not read; gensim writes "
            "them as text: KeyedVectors.load_word2vec_format(FILE, binary=True)"
            ".save_word2vec_format(NEW)."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not vectors:
        raise DataError(f"{path} holds no word vectors. Write a word and its numbers a line.")
    vectors_ND = np.stack(list(vectors.values()))
    length = np.linalg.norm(vectors_ND, axis=1).mean()
    return list(vectors), vectors_ND / np.float32(max(length, 1e-12))


def check_coverage(words: WordVocabulary, texts: Sequence[str], source: str) -> float:
    """Return the share of the characters of texts that are in a known word, and log it.

    Args:
        words: of the vectors.
        texts: of the training part.
        source: what an error calls the vectors.

    Raises:
        DataError: no character is.
    """
    ids = words.of_characters(texts)
    ids = ids[ids != NO_WORD]
    share = float((ids >= NUM_SPECIAL_WORDS).mean()) if len(ids) else 0.0
    if not share:
        raise DataError(
            f"{source} holds none of the words of the training texts. Give vectors of their "
            "language, with words cut as jieba cuts them."
        )
    logger.info("%s: %.1f %% of the characters are in a word with a vector", source, 100 * share)
    return share


def _rows(
    lines: Iterator[str], source: str, max_words: int
) -> Iterator[tuple[str, Float32[np.ndarray, "D"]]]:
    first = next(lines, "")
    fields = first.split()
    has_header = len(fields) == 2 and all(field.isdecimal() for field in fields)
    width = int(fields[1]) if has_header else len(fields) - 1
    lines = lines if has_header else chain([first], lines)
    for number, line in enumerate(lines, start=1 + has_header):
        if number > max_words + has_header:
            return
        word, *numbers = line.rstrip().rsplit(" ", width)  # a word may hold blanks
        try:
            vector = np.array(numbers, np.float32)
        except ValueError:
            vector = np.empty(0, np.float32)
        if width < 1 or len(vector) != width or not np.isfinite(vector).all():
            raise DataError(
                f"{source}, line {number:,} is not a word and {max(width, 1)} numbers: "
                f"{show(line.strip())}. Write them with single blanks between."
            )
        yield word, vector
