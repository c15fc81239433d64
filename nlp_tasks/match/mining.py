"""Hard negatives: texts that a search takes for an answer, and that are known not to be one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from idbert.errors import ConfigError, DataError
from idbert.retrieval.index import VectorIndex
from nlp_tasks.match.groups import TextGraph, is_positive
from nlp_tasks.match.pair_checks import contradictory_rows
from nlp_tasks.match.pairs import NO_ROW, PairExamples

logger = logging.getLogger(__name__)

Encode = Callable[[list[str]], Float32[np.ndarray, "N D"]]
"""Turns texts into vectors that are ranked by inner product."""
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class MiningSettings:
    """Which texts become hard negatives of a pair that belongs together."""

    method: Literal["none", "vectors", "bm25"] = "none"
    """How candidates are found: nearest vectors of the towers, or common words."""
    per_text: int = 1
    """Hard negatives of each pair."""
    pool: int = 50
    """Candidates that are looked at for each first text, the best found."""
    skip_top: int = 0
    """So many of the best are passed over, which may be right though nobody labelled them so."""
    margin: float | int | None = None
    """A negative's score is below the positive's by at least this; null: it may be above."""
    choose: Literal["top", "random"] = "top"
    """Take the best of the pool that are left, or any."""

    def __post_init__(self) -> None:
        if self.method == "none":
            defaults = type(self).__dataclass_fields__
            changed = [name for name in defaults if getattr(self, name) != defaults[name].default]
            if changed:
                raise ConfigError(f"{changed[0]} acts only where method is vectors or bm25.")
        for name, least in (("per_text", 1), ("pool", 1), ("skip_top", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; give {least} or more.")
        if self.skip_top + self.per_text > self.pool:
            raise ConfigError(
                f"pool is {self.pool}, too few to pass over {self.skip_top} and take "
                f"{self.per_text}. Raise pool."
            )
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise ConfigError(f"margin is {self.margin}; give 0 or more, or null for none.")


class CandidateSearch(Protocol):
    """A collection of texts, and a search in it."""

    @property
    def texts(self) -> Sequence[str]:
        """The candidates."""

    def search(
        self, queries: list[str], k: int
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return scores and places in `texts` of the best k, best first; -1 where fewer."""


class VectorCandidates:
    """Candidates found by their vectors, in a FAISS index.

    Args:
        texts: the candidates.
        encode: turns them into vectors; normalised ones make the score a cosine.
        encode_queries: turns the first texts into vectors; None: as `encode`.
        factory: of the index; see VectorIndex.build.
    """

    def __init__(
        self,
        texts: Sequence[str],
        encode: Encode,
        *,
        encode_queries: Encode | None = None,
        factory: str = "Flat",
    ) -> None:
        self.texts = list(texts)
        self._encode = encode_queries or encode
        vectors_ND = np.asarray(encode(self.texts), np.float32)
        self._index = VectorIndex.build(vectors_ND, pa.array(range(len(texts))), factory=factory)

    def search(
        self, queries: list[str], k: int
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return scores and places of the nearest candidates."""
        return self._index.search(np.asarray(self._encode(queries), np.float32), k)


class BM25Candidates:
    """Candidates found by the words that they have in common with the first text.

    Args:
        texts: the candidates.
        engine: of idbert.retrieval.bm25.BM25Index.
    """

    def __init__(
        self, texts: Sequence[str], *, engine: Literal["auto", "rank-bm25", "bm25s"] = "auto"
    ) -> None:
        from idbert.retrieval.bm25 import BM25Index

        self.texts = list(texts)
        self._index = BM25Index.build(self.texts, engine=engine)

    def search(
        self, queries: list[str], k: int
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return scores and places of the candidates with the most telling words in common."""
        scores_QK, rows_QK = self._index.search(queries, k)
        return scores_QK, rows_QK


def candidate_search(
    examples: PairExamples,
    settings: MiningSettings,
    encode: Encode | None = None,
    *,
    encode_queries: Encode | None = None,
) -> CandidateSearch:
    """Return the search that the settings ask for, over the different second texts of pairs.

    Args:
        examples: whose second texts are the candidates.
        settings: the method.
        encode: turns texts into vectors, for the method "vectors".
        encode_queries: turns first texts into vectors, if another tower does.

    Raises:
        ConfigError: the method is "none", or vectors are wanted and nothing makes them.
    """
    candidates = list(dict.fromkeys(examples.seconds))
    if settings.method == "bm25":
        return BM25Candidates(candidates)
    if settings.method == "none" or encode is None:
        raise ConfigError(f"nothing can be mined by method {settings.method} without a search.")
    return VectorCandidates(candidates, encode, encode_queries=encode_queries)


def mine_hard_negatives(
    examples: PairExamples,
    search: CandidateSearch,
    settings: MiningSettings,
    *,
    seed: int = 0,
) -> PairExamples:
    """Give each pair that belongs together hard negatives: what the search finds and is not right.

    A candidate that is the first text itself, or belongs to it by any pair or by what pairs imply,
    is never taken; `skip_top` counts what is left. With a margin, a pair whose second text is not
    in the pool gets none, since all that is in it scores higher.

    Args:
        examples: of kind "binary" or "none".
        search: the candidates.
        settings: how many, and which.
        seed: which are taken where any of the pool may be.

    Returns:
        The same pairs with `negatives`, those that they had first; pairs labelled 0 get none.

    Raises:
        ConfigError: the pairs are of another kind.
        DataError: no pair belongs together, or none gets a negative.
    """
    positive_N = is_positive(examples)
    places = np.flatnonzero(positive_N)
    if len(places) == 0:
        raise DataError(f"{examples.source}: no pair belongs together, so nothing can be mined.")
    graph = TextGraph.of(examples)
    groups_U = graph.groups(positive_N)
    numbers = {text: number for number, text in enumerate(graph.texts)}
    codes_K = np.array([numbers.get(text, -1) for text in search.texts], np.int64)
    # Codes and groups of the candidates; the last entry is that of a missing candidate (-1).
    code_of = np.append(codes_K, -1)
    group_of = np.where(code_of < 0, -1, groups_U[code_of])
    queries, query_of = np.unique(graph.first_N[places], return_inverse=True)
    scores_QK, rows_QK = search.search(graph.texts[queries].tolist(), settings.pool)
    rng = np.random.default_rng(seed)
    mined: list[list[str]] = [[] for _ in range(len(examples))]
    for start in range(0, len(places), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        scores_NK, rows_NK = scores_QK[query_of[part]], rows_QK[query_of[part]]
        firsts, seconds = graph.first_N[places[part]], graph.second_N[places[part]]
        free_NK = (rows_NK >= 0) & (group_of[rows_NK] != groups_U[firsts][:, None])
        free_NK &= np.cumsum(free_NK, axis=1) > settings.skip_top
        if settings.margin is not None:
            own_NK = np.where(code_of[rows_NK] == seconds[:, None], scores_NK, -np.inf)
            ceiling_N = own_NK.max(axis=1, initial=-np.inf) - settings.margin
            free_NK &= scores_NK <= ceiling_N[:, None]
        for place, taken in zip(places[part], _taken(free_NK, rows_NK, settings, rng), strict=True):
            mined[place] = [search.texts[row] for row in taken[taken >= 0]]
    _say(examples, mined, len(places), settings)
    before = examples.negatives or [[] for _ in mined]
    both = [list(dict.fromkeys([*a, *b])) for a, b in zip(before, mined, strict=True)]
    return replace(examples, negatives=both)


def negatives_as_rows(examples: PairExamples) -> PairExamples:
    """Return pairs of kind "binary" with each hard negative as a row of its own, labelled 0.

    Args:
        examples: of kind "binary" or "none"; their negatives are left out of the result.
    """
    lists = examples.negatives or [[] for _ in range(len(examples))]
    owners = np.repeat(np.arange(len(lists)), [len(negatives) for negatives in lists])
    targets = is_positive(examples).astype(np.int64)
    return replace(
        examples,
        firsts=[*examples.firsts, *(examples.firsts[owner] for owner in owners)],
        seconds=[*examples.seconds, *(text for negatives in lists for text in negatives)],
        targets=np.concatenate([targets, np.zeros(len(owners), np.int64)]),
        kind="binary",
        negatives=None,
        rows=np.concatenate([examples.rows, np.full(len(owners), NO_ROW, np.int64)]),
    )


def labelled_negatives(examples: PairExamples, name: str | None = None) -> list[list[str]]:
    """Return for each pair the second texts that are labelled as not belonging to its first.

    So pairs of inference become triplets: of one premise an entailment and a contradiction. A text
    that belongs to the first one by other pairs, or that stands there with several classes, is no
    negative.

    Args:
        examples: of kind "binary" (label 0), or "class".
        name: of the class that does not belong; None for kind "binary".

    Raises:
        ConfigError: the pairs are of another kind, or there is no such class.
    """
    known = {"binary": (None,), "class": examples.names}.get(examples.kind, ())
    if name not in known or examples.targets is None:
        named = ", ".join(str(one) for one in known) or "none"
        raise ConfigError(
            f"no label '{name}' of pairs of kind {examples.kind} says what does not belong; "
            f"there are: {named}."
        )
    if name is None:
        graph = TextGraph.of(examples)
        groups_U = graph.groups(is_positive(examples))
        is_negative_N = (examples.targets == 0) & (
            groups_U[graph.first_N] != groups_U[graph.second_N]
        )
    else:
        is_negative_N = examples.targets == examples.names.index(name)
        unclear = contradictory_rows(
            examples.firsts, examples.seconds, examples.targets, ordered=True
        )
        is_negative_N[unclear] = False
    of_first: dict[str, dict[str, None]] = {}
    for place in np.flatnonzero(is_negative_N):
        of_first.setdefault(examples.firsts[place], {})[examples.seconds[place]] = None
    return [list(of_first.get(first, ())) for first in examples.firsts]


def _taken(
    free_NK: np.ndarray, rows_NK: np.ndarray, settings: MiningSettings, rng: np.random.Generator
) -> np.ndarray:
    """Return the places of the chosen candidates, -1 where there are fewer."""
    order_NK = np.broadcast_to(np.arange(free_NK.shape[1], dtype=np.float64), free_NK.shape)
    if settings.choose == "random":
        order_NK = rng.random(free_NK.shape)
    sorted_NK = np.argsort(np.where(free_NK, order_NK, np.inf), axis=1, kind="stable")
    sorted_NK = sorted_NK[:, : settings.per_text]
    chosen = np.take_along_axis(rows_NK, sorted_NK, axis=1)
    return np.where(np.take_along_axis(free_NK, sorted_NK, axis=1), chosen, -1)


def _say(
    examples: PairExamples, mined: list[list[str]], pairs: int, settings: MiningSettings
) -> None:
    counts = np.array([len(negatives) for negatives in mined])
    full, some = int((counts == settings.per_text).sum()), int((counts > 0).sum())
    if some == 0:
        raise DataError(
            f"{examples.source}: no hard negative was found for any of {pairs:,} pairs: all "
            "candidates belong to them or were passed over. Raise pool, lower skip_top or margin."
        )
    logger.info(
        "%s: %s of %s pairs got %d hard negatives, %s fewer, %s none",
        examples.source, f"{full:,}", f"{pairs:,}", settings.per_text, f"{some - full:,}",
        f"{pairs - some:,}",
    )  # fmt: skip
