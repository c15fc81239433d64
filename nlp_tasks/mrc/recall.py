"""Which paragraphs may hold an answer: by words (BM25), by vectors (towers), or both fused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Float64, Int64

from idbert.errors import ConfigError
from idbert.retrieval.bm25 import BM25Index, BM25Settings
from idbert.retrieval.index import VectorIndex
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.paragraphs import Collection

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

DEPTHS = (1, 10, 50)
"""At how many paragraphs recall is reported."""

Found = tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]
"""Scores and rows, best first; -inf and -1 where fewer were found."""


@dataclass(frozen=True)
class RecallSettings:
    """How the paragraphs are found that are read for an answer."""

    method: Literal["bm25", "towers", "fused"] = "bm25"
    """bm25: by common words; towers: by the nearness of sentence vectors; fused: both."""
    bm25: BM25Settings = field(default_factory=BM25Settings)
    """How common words are scored"""
    towers: str | None = None
    """Folder or name of the sentence encoder, with "towers" and "fused": a run of nlp_match or any
    that sentence-transformers opens."""
    factory: str = "Flat"
    """FAISS factory string of the vectors' index; "Flat" is exact."""
    fusion: Literal["ranks", "scores"] = "ranks"
    """With "fused". ranks: a paragraph gets share / (rank_constant + rank) of each; scores: the
    share of each score, scaled to 0 to 1 among the candidates of a question."""
    bm25_share: float | int = 0.5
    """With "fused": share of BM25; the rest is the towers'."""
    rank_constant: int = 60
    """With fusion by "ranks": the larger, the less the first ranks stand out."""
    depth: int = 100
    """With "fused": candidates that each of both gives."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", ("bm25", "towers", "fused")),
            ("fusion", ("ranks", "scores")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} is '{getattr(self, name)}'; choose {' or '.join(choices)}."
                )
        if not 0 <= self.bm25_share <= 1:
            raise ConfigError(f"bm25_share is {self.bm25_share}; it must be from 0 to 1.")
        for name, least in (("rank_constant", 0), ("depth", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.method != "bm25" and self.towers is None:
            raise ConfigError(
                f"recall by '{self.method}' needs a sentence encoder. Name its folder with towers."
            )
        self._refuse_idle(("towers", "factory"), self.method == "bm25", "towers' or 'fused")
        self._refuse_idle(("bm25",), self.method == "towers", "bm25' or 'fused")
        fused = ("fusion", "bm25_share", "rank_constant", "depth")
        self._refuse_idle(fused, self.method != "fused", "fused")
        if self.fusion == "scores" and self.rank_constant != _default("rank_constant"):
            raise ConfigError("rank_constant only acts with fusion by 'ranks'. Leave it out.")

    def _refuse_idle(self, names: Sequence[str], is_idle: bool, methods: str) -> None:
        for name in names:
            if is_idle and getattr(self, name) != _default(name):
                raise ConfigError(
                    f"{name} only acts with the method '{methods}', not with '{self.method}'. "
                    "Leave it out, or change the method."
                )


def _default(name: str) -> object:
    made = RecallSettings.__dataclass_fields__[name]
    return BM25Settings() if name == "bm25" else made.default


class Recall(Protocol):
    """What finds rows of a collection for queries: BM25Index, TowerIndex, FusedRecall."""

    def search(self, queries: Sequence[str], k: int) -> Found:
        """Return scores and rows of the best k, best first; -inf and -1 where fewer are found."""


def build_recall(
    texts: Sequence[str], settings: RecallSettings = RecallSettings(), *, device: str = "auto"
) -> Recall:
    """Index the texts of a collection.

    Args:
        texts: row n of what is found is `texts[n]`.
        settings: the method.
        device: of the towers; auto: the GPU where there is one.

    Raises:
        DataError: there are no words, or no texts.
        CheckpointError: the towers cannot be opened.
        MissingExtraError: the method needs a package that is not installed.
    """
    if settings.method == "bm25":
        return BM25Index.from_settings(texts, settings.bm25)
    from nlp_tasks.match.towers import open_towers  # seconds to import, and only needed here

    assert settings.towers is not None
    model = open_towers(settings.towers, device=None if device == "auto" else device)
    towers = TowerIndex.build(texts, model, factory=settings.factory)
    if settings.method == "towers":
        return towers
    return FusedRecall(
        [BM25Index.from_settings(texts, settings.bm25), towers],
        [settings.bm25_share, 1 - settings.bm25_share],
        settings,
    )


class TowerIndex:
    """Texts that are found by the cosine of sentence vectors. Made by `build`."""

    def __init__(self, model: "SentenceTransformer", index: VectorIndex) -> None:
        self.model = model
        self.index = index

    @classmethod
    def build(
        cls, texts: Sequence[str], model: "SentenceTransformer", *, factory: str = "Flat"
    ) -> "TowerIndex":
        """Encode texts as documents and index their vectors.

        Args:
            texts: row n is `texts[n]`.
            model: one tower, or two.
            factory: of FAISS.
        """
        vectors_ND = _vectors(model, texts, "document", progress=True)
        return cls(
            model, VectorIndex.build(vectors_ND, pa.array(range(len(texts))), factory=factory)
        )

    def __len__(self) -> int:
        """Return N, the number of texts."""
        return len(self.index)

    def search(self, queries: Sequence[str], k: int) -> Found:
        """Return the cosines and rows of the nearest k texts, nearest first."""
        return self.index.search(_vectors(self.model, queries, "query"), k)


class FusedRecall:
    """Several ways to find rows, whose ranks or scores are added.

    Args:
        parts: each finds rows of one collection.
        shares: what each counts.
        settings: fusion, rank_constant and depth.

    Source: Cormack, Clarke and Buettcher 2009 (reciprocal rank fusion) for the ranks.
    """

    def __init__(
        self, parts: Sequence[Recall], shares: Sequence[float], settings: RecallSettings
    ) -> None:
        self.parts = parts
        self.shares = shares
        self.settings = settings

    def search(self, queries: Sequence[str], k: int) -> Found:
        """Return the best k of all candidates; of equal sums the lower row first."""
        depth = max(k, self.settings.depth)
        found = [part.search(queries, depth) for part in self.parts]
        if self.settings.fusion == "ranks":
            constant = self.settings.rank_constant
            points = [
                share / (constant + 1 + np.arange(rows_QK.shape[1])) + np.zeros(rows_QK.shape)
                for share, (_, rows_QK) in zip(self.shares, found, strict=True)
            ]
        else:
            points = [
                share * _scaled(scores_QK)
                for share, (scores_QK, _) in zip(self.shares, found, strict=True)
            ]
        rows = [rows_QK for _, rows_QK in found]
        return _added(np.concatenate(points, axis=1), np.concatenate(rows, axis=1), k)


def answering(
    questions: Sequence[Question], collection: Collection, rows_QK: Int64[np.ndarray, "Q K"]
) -> Bool[np.ndarray, "Q K"]:
    """Say of each found paragraph whether it answers its question.

    It does where it is known to be the question's paragraph; of a question whose context is not in
    the collection, or unknown, where one of the answers stands in it.
    """
    answers_QK = np.zeros(rows_QK.shape, bool)
    for place, question in enumerate(questions):
        known = collection.rows_of(question)
        if known is not None:
            answers_QK[place] = np.isin(rows_QK[place], known)
        else:
            answers_QK[place] = [
                row >= 0 and collection.holds(row, question.answers)
                for row in rows_QK[place].tolist()
            ]
    return answers_QK


def first_ranks(answers_QK: Bool[np.ndarray, "Q K"]) -> Int64[np.ndarray, "Q"]:
    """Return the rank, from 1, of the first paragraph that answers; 0: none was found."""
    if not answers_QK.shape[1]:
        return np.zeros(len(answers_QK), np.int64)
    return np.where(answers_QK.any(axis=1), answers_QK.argmax(axis=1) + 1, 0)


def recall_figures(
    ranks_Q: Int64[np.ndarray, "Q"], depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    """Return the share of questions with an answering paragraph among the first k, and the MRR.

    Args:
        ranks_Q: of questions that have an answer, from `first_ranks`.
        depths: the k's; one beyond what was searched says what was found at all.
    """
    found_Q = ranks_Q > 0
    figures = {f"recall@{k}": _mean(found_Q & (ranks_Q <= k)) for k in depths}
    return figures | {"mrr": _mean(np.where(found_Q, 1 / np.maximum(ranks_Q, 1), 0))}


def _mean(values_Q: np.ndarray) -> float:
    return float(values_Q.mean()) if len(values_Q) else 0.0


def _vectors(
    model: "SentenceTransformer",
    texts: Sequence[str],
    task: Literal["query", "document"],
    *,
    progress: bool = False,
) -> Float32[np.ndarray, "N D"]:
    from nlp_tasks.match.encoding import encode_sentences

    vectors_ND = encode_sentences(model, texts, task=task, progress=progress)
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray = vectors_ND / np.maximum(lengths_N, 1e-12)
    return unit_ND.astype(np.float32)


def _scaled(scores_QK: Float32[np.ndarray, "Q K"]) -> Float64[np.ndarray, "Q K"]:
    """Scale each question's scores to 0 (its worst candidate) to 1 (its best)."""
    found_QK = np.isfinite(scores_QK)
    scores = np.where(found_QK, scores_QK, 0).astype(np.float64)
    high = np.where(found_QK, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    low = np.where(found_QK, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(high > low, high - low, 1)
    scaled = np.where(high > low, (scores - np.where(high > low, low, 0)) / spread, 1)
    return np.where(found_QK, scaled, 0)


def _added(
    points_QK: Float64[np.ndarray, "Q K"], rows_QK: Int64[np.ndarray, "Q K"], k: int
) -> Found:
    """Add the points of equal rows and return the best k rows of each question."""
    order = np.argsort(rows_QK, axis=1, kind="stable")
    rows_QK = np.take_along_axis(rows_QK, order, axis=1)
    points_QK = np.take_along_axis(points_QK, order, axis=1)
    is_new = np.ones(rows_QK.shape, bool)
    is_new[:, 1:] = rows_QK[:, 1:] != rows_QK[:, :-1]
    sums = np.bincount(np.cumsum(is_new) - 1, points_QK.ravel(), minlength=int(is_new.sum()))
    added = np.full(rows_QK.shape, -np.inf)
    added[is_new] = sums
    added[rows_QK < 0] = -np.inf
    best = np.argsort(-added, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(added, best, axis=1).astype(np.float32)
    rows = np.take_along_axis(rows_QK, best, axis=1)
    return scores, np.where(np.isneginf(scores), -1, rows)
