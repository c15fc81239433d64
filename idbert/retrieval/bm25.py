"""BM25: which texts share the rarest words with a query; Chinese is cut into words by jieba."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy import sparse
from tqdm import tqdm

from idbert.errors import ConfigError, DataError, MissingExtraError
from idbert.inputs.words import words_of

logger = logging.getLogger(__name__)

LARGE_COLLECTION = 10_000
"""Texts above which "auto" takes bm25s where it is installed."""

_SCORES_AT_ONCE = 2**24  # 64 MiB


@dataclass(frozen=True)
class BM25Settings:
    """How texts are scored by the words that they share with a query."""

    engine: Literal["auto", "rank-bm25", "bm25s"] = "auto"
    """rank-bm25: Okapi's weights; bm25s: Lucene's, built faster for a large collection (an extra).
    They rank differently. auto: rank-bm25, and bm25s above 10,000 texts where it is installed."""
    k1: float | int = 1.5
    """How much a second and third occurrence of a word in a text counts; 0: nothing."""
    b: float | int = 0.75
    """How much a long text is held against it; 0: not at all, 1: in full."""

    def __post_init__(self) -> None:
        if not 0 <= self.k1 < float("inf"):
            raise ConfigError(f"k1 is {self.k1}; it must be 0 or more, 1.5 as a rule.")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"b is {self.b}; it must be from 0 to 1, 0.75 as a rule.")


class BM25Index:
    """Texts that are found by their words. Made by `build`.

    score(query, text) = sum over the query's words of idf * tf * (k1 + 1) / (tf + k1 * (1 - b +
    b * words of the text / mean words of a text)), tf being how often the text holds the word. A
    word that stands twice in a query counts twice. The summands are computed once and kept as a
    sparse matrix, so that many queries are one product.

    Attributes:
        engine: "rank-bm25" or "bm25s".

    Source: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", equation 3.15;
    Lù 2024 (BM25S) for the summands computed beforehand.
    """

    def __init__(self, engine: str, places: dict[str, int], weights_VN: sparse.csr_array) -> None:
        self.engine = engine
        self._places = places
        self._weights_VN = weights_VN

    def __len__(self) -> int:
        """Return N, the number of texts."""
        return int(self._weights_VN.shape[1])

    @classmethod
    def build(
        cls,
        texts: Sequence[str],
        *,
        engine: Literal["auto", "rank-bm25", "bm25s"] = "auto",
        k1: float | int = 1.5,
        b: float | int = 0.75,
    ) -> "BM25Index":
        """Cut texts into words, in lower case, and compute what each word adds to a score.

        Args:
            texts: the collection; row n is `texts[n]`. One without a word is never found.
            engine: as in BM25Settings.
            k1: as in BM25Settings.
            b: as in BM25Settings.

        Raises:
            ConfigError: a setting is out of range.
            DataError: there are no texts, or none holds a word.
            MissingExtraError: bm25s is asked for and not installed.
        """
        settings = BM25Settings(engine, k1, b)
        started = time.perf_counter()
        words = [words_of(text) for text in _progress(texts, "words")]
        if not any(words):
            raise DataError(
                f"none of {len(texts)} texts holds a word: there is nothing to search. Give texts."
            )
        chosen = _engine(settings.engine, len(texts))
        weigh = _weights_of_bm25s if chosen == "bm25s" else _weights_of_rank_bm25
        index = cls(chosen, *weigh(words, settings))
        seconds = time.perf_counter() - started
        logger.info(
            "BM25 (%s): %d texts, %d words in %.1f s",
            chosen,
            len(index),
            len(index._places),
            seconds,
        )
        return index

    @classmethod
    def from_settings(cls, texts: Sequence[str], settings: BM25Settings) -> "BM25Index":
        """Return `build` with the values of a settings object."""
        return cls.build(texts, **asdict(settings))

    def search(
        self, queries: Sequence[str], k: int
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return the texts that score highest for each query, best first.

        Args:
            queries: any texts.
            k: texts wanted; at most N are returned.

        Returns:
            Scores and rows [Q, min(k, N)]; -inf and -1 where fewer texts share a word with the
            query. Of equal scores the lower row comes first.

        Raises:
            ConfigError: k is below 1.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1.")
        width = min(k, len(self))
        scores_QK = np.full((len(queries), width), -np.inf, np.float32)
        rows_QK = np.full((len(queries), width), -1, np.int64)
        counts_QV = self._counts(queries)
        step = max(1, _SCORES_AT_ONCE // len(self))
        for start in range(0, len(queries), step):
            chunk = slice(start, start + step)
            scores = (counts_QV[chunk] @ self._weights_VN).toarray()
            best, rows = _best(scores, width)
            # Every summand is above 0: a score of 0 is that of a text without a common word.
            scores_QK[chunk] = np.where(best > 0, best, -np.inf)
            rows_QK[chunk] = np.where(best > 0, rows, -1)
        return scores_QK, rows_QK

    def _counts(self, queries: Sequence[str]) -> sparse.csr_array:
        """Return how often each query holds each word of the collection."""
        counters = [Counter(words_of(query)) for query in queries]
        known = [
            {self._places[word]: count for word, count in counter.items() if word in self._places}
            for counter in counters
        ]
        return _rows(known, len(self._places)).astype(np.float32)


def _engine(engine: str, num_texts: int) -> str:
    """Return the engine to use.

    Raises:
        MissingExtraError: it is not installed.
    """
    if engine == "rank-bm25" or (engine == "auto" and num_texts <= LARGE_COLLECTION):
        return "rank-bm25"
    try:
        import bm25s  # noqa: F401
    except ImportError as error:
        if engine == "bm25s":
            raise MissingExtraError(
                "bm25s is not installed. Run pip install 'idbert[bm25s]', or choose the engine "
                "rank-bm25."
            ) from error
        logger.info("%d texts: pip install 'idbert[bm25s]' builds their index faster", num_texts)
        return "rank-bm25"
    return "bm25s"


def _weights_of_rank_bm25(
    words: Sequence[list[str]], settings: BM25Settings
) -> tuple[dict[str, int], sparse.csr_array]:
    """Compute the summands from rank-bm25's counts and idf.

    Its own `get_scores` reads all texts for every word of a query; the figures are the same.
    """
    from rank_bm25 import BM25Okapi

    okapi = BM25Okapi(words, k1=settings.k1, b=settings.b)
    places = {word: place for place, word in enumerate(okapi.idf)}
    named = [{places[word]: tf for word, tf in freqs.items()} for freqs in okapi.doc_freqs]
    weights_NV = _rows(named, len(places))
    holders_V = np.bincount(weights_NV.indices, minlength=len(places))
    idf_V = _positive(np.array(list(okapi.idf.values())), holders_V, len(words), okapi.epsilon)
    lengths_N = np.array(okapi.doc_len) / okapi.avgdl
    damping_N = settings.k1 * (1 - settings.b + settings.b * lengths_N)
    tf = weights_NV.data
    damping = np.repeat(damping_N, np.diff(weights_NV.indptr))
    weights_NV.data = idf_V[weights_NV.indices] * tf * (settings.k1 + 1) / (tf + damping)
    return places, weights_NV.T.tocsr().astype(np.float32)


def _positive(
    idf_V: Float64[np.ndarray, "V"],
    holders_V: Int64[np.ndarray, "V"],
    num_texts: int,
    epsilon: float,
) -> Float64[np.ndarray, "V"]:
    """Replace an idf that is not above 0 by a share of Lucene's, which always is.

    rank-bm25 gives a word in exactly half of the texts 0, and in a collection of a few texts also
    less: a text would then rank the lower for holding the word.
    """
    lucene_V = np.log1p((num_texts - holders_V + 0.5) / (holders_V + 0.5))
    return np.where(idf_V > 0, idf_V, epsilon * lucene_V)


def _weights_of_bm25s(
    words: Sequence[list[str]], settings: BM25Settings
) -> tuple[dict[str, int], sparse.csr_array]:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs what only its authors need
    model = bm25s.BM25(k1=settings.k1, b=settings.b)
    model.index(list(words), show_progress=False)
    kept: dict[str, Any] = model.scores
    num_words = len(kept["indptr"]) - 1
    weights_VN = sparse.csr_array(
        (kept["data"], kept["indices"], kept["indptr"]), shape=(num_words, len(words))
    )
    places = {word: place for word, place in model.vocab_dict.items() if place < num_words}
    return places, weights_VN


def _rows(counts: Sequence[dict[int, int]], width: int) -> sparse.csr_array:
    """Return a matrix with one row for each table of column: value."""
    sizes = np.fromiter(map(len, counts), np.int64, len(counts))
    total = int(sizes.sum())
    columns = np.fromiter(chain.from_iterable(counts), np.int64, total)
    values = np.fromiter(chain.from_iterable(row.values() for row in counts), np.float64, total)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return sparse.csr_array((values, columns, offsets), shape=(len(counts), width))


def _best(
    scores: Float32[np.ndarray, "Q N"], width: int
) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
    """Return the largest scores of each row and their places; of equal ones the lower place."""
    first = scores.shape[1] - width
    least = np.partition(scores, first, axis=1)[:, first, None]
    chosen = scores > least
    # Of those that are as good as the last one taken, the lowest fill what is left.
    ties = scores == least
    room = width - chosen.sum(axis=1, keepdims=True)
    chosen |= ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= room)
    rows = np.nonzero(chosen)[1].reshape(len(scores), width)
    best = np.take_along_axis(scores, rows, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _progress(texts: Sequence[str], what: str) -> Iterable[str]:
    """Show a bar on a terminal while a large collection is cut into words."""
    hidden = True if len(texts) < LARGE_COLLECTION else None
    return tqdm(texts, desc=what, unit=" texts", disable=hidden, leave=False)
