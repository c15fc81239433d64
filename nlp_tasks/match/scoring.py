"""What towers say of pairs: cosines or a classifier's probabilities, and what a search finds."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import Tensor

from idbert.errors import ConfigError
from idbert.inputs import text
from nlp_tasks.match.encoding import Task, encode_sentences
from nlp_tasks.match.metrics import (
    DEFAULT_METRIC,
    METRICS_OF,
    RECALL_AT,
    retrieval_metrics,
    retrieval_task,
    similarity_metrics,
)
from nlp_tasks.match.pair_classifier import PairClassifier
from nlp_tasks.match.pairs import PairExamples
from nlp_tasks.match.resampling import ScoredPairs
from nlp_tasks.match.towers import DOCUMENT, QUERY

SCORES_AT_ONCE = 2**24  # 64 MiB
DEEPEST = max(RECALL_AT)

Positive = float | int | str | None
"""Which pairs belong together: the least score, or the class; None where 0 and 1 say it."""


@dataclass(frozen=True)
class Question:
    """What is asked of towers about one part's pairs.

    Attributes:
        labelled: whether their scores are compared with labels.
        searched: whether each first text is to find its second ones.
        positive: which pairs belong together.
    """

    labelled: bool
    searched: bool
    positive: Positive = None

    @classmethod
    def about(
        cls, examples: PairExamples, *, has_classifier: bool, positive: Positive = None
    ) -> "Question":
        """Return what can be asked about such pairs.

        Args:
            examples: the pairs.
            has_classifier: whether classes can be told.
            positive: which pairs belong together, where 0 and 1 do not say it.

        Raises:
            ConfigError: nothing can be asked about them.
        """
        if examples.kind in ("none", "binary"):
            positive = None
        given = positive is not None
        is_threshold = given and not isinstance(positive, str)
        says = {
            "none": any(a != b for a, b in zip(examples.firsts, examples.seconds, strict=True)),
            "binary": bool(examples.targets is not None and examples.targets.any()),
            "score": is_threshold,
            "class": given and positive in examples.names,
        }[examples.kind]
        labelled = examples.kind in ("binary", "score") or (
            examples.kind == "class" and has_classifier
        )
        if not labelled and not says:
            reason = (
                "each of its texts is only paired with itself"
                if examples.kind == "none"
                else "its pairs have classes, and no classifier is trained that could tell them"
            )
            raise ConfigError(
                f"{examples.source} cannot validate these towers: {reason}. Give labelled pairs, "
                "or set data.dev_share to 0."
            )
        return cls(labelled, says, positive if says else None)

    def metrics(self, examples: PairExamples) -> tuple[str, ...]:
        """Return the names of the figures, the usual one first."""
        if self.labelled:
            usual = DEFAULT_METRIC[examples.kind]
            others = [name for name in METRICS_OF[examples.kind] if name != usual]
            return (usual, *others)
        candidates = len(set(examples.seconds))
        return ("mrr", *(f"recall@{k}" for k in RECALL_AT if k <= candidates))


@dataclass(frozen=True, eq=False)
class Answers:
    """What towers say of one part's pairs.

    Attributes:
        cosines_N: of the two vectors of each pair.
        scored: scores beside labels; None where these pairs have none that can be compared.
        retrieval: figures of the search; empty where nothing was searched.
    """

    cosines_N: Float32[np.ndarray, "N"]
    scored: ScoredPairs | None
    retrieval: dict[str, float]

    def figures(self) -> dict[str, float]:
        """Return the figures that are watched: those of labels, or else those of the search."""
        if self.scored is None:
            return self.retrieval
        return similarity_metrics(
            self.scored.scores, self.scored.targets, self.scored.kind, self.scored.threshold
        )


def encode(
    towers: SentenceTransformer,
    texts: list[str],
    task: Task | None = None,
    *,
    progress: bool = False,
) -> Float32[Tensor, "N D"]:
    """Return one vector a text, on the CPU, each different text read once.

    Args:
        towers: One tower or two; in evaluation mode afterwards.
        texts: Any order, repetitions allowed.
        task: "query" or "document", which of two towers reads them.
        progress: Whether to show a bar.
    """
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    # A prompt for the task would be another text than the one that was trained on.
    asked = task if isinstance(towers[0], Router) else None
    vectors_ND = encode_sentences(towers.eval(), list(places), task=asked, progress=progress)
    rows_N = torch.tensor([places[text] for text in texts], dtype=torch.int64)
    return torch.from_numpy(vectors_ND)[rows_N]


def answer(
    towers: SentenceTransformer,
    classifier: PairClassifier | None,
    examples: PairExamples,
    question: Question,
    *,
    threshold: Any = None,
    progress: bool = False,
) -> Answers:
    """Ask towers about pairs.

    Args:
        towers: In evaluation mode afterwards.
        classifier: What was trained on both vectors, if anything was.
        examples: The pairs.
        question: From `Question.about`.
        threshold: Of pairs of kind "binary", from other pairs; None: the best for these.
        progress: Whether to show bars.
    """
    firsts_ND = encode(towers, examples.firsts, QUERY, progress=progress)
    seconds_ND = encode(towers, examples.seconds, DOCUMENT, progress=progress)
    cosines_N = torch.nn.functional.cosine_similarity(firsts_ND, seconds_ND).numpy()
    scored = None
    if question.labelled:
        assert examples.targets is not None
        scores = cosines_N
        if classifier is not None:
            probabilities_NC = classifier.probabilities(firsts_ND, seconds_ND)
            if examples.kind == "class":
                tiny = torch.finfo(torch.float32).tiny  # a probability may be 0
                scores = probabilities_NC.clamp(min=tiny).log().numpy()
            else:
                scores = probabilities_NC[:, 1].numpy()
        used = threshold if examples.kind == "binary" else None
        scored = ScoredPairs(scores, examples.targets, examples.kind, used, examples.names)
    retrieval = {}
    if question.searched:
        queries, candidates, relevant = retrieval_task(examples, question.positive)
        vectors = dict(zip(examples.firsts, firsts_ND, strict=True))
        queries_QD = torch.stack([vectors[text] for text in queries])
        vectors = dict(zip(examples.seconds, seconds_ND, strict=True))
        candidates_ND = torch.stack([vectors[text] for text in candidates])
        ranked_QK = ranking(queries_QD, candidates_ND, _own_places(queries, candidates, relevant))
        retrieval = retrieval_metrics(ranked_QK, relevant)
    return Answers(cosines_N, scored, retrieval)


def ranking(
    queries_QD: Float32[Tensor, "Q D"],
    candidates_ND: Float32[Tensor, "N D"],
    left_out_Q: Int64[np.ndarray, "Q"],
) -> Int64[np.ndarray, "Q K"]:
    """Return the places of the nearest candidates by cosine, best first, exactly.

    Args:
        queries_QD: vectors.
        candidates_ND: vectors.
        left_out_Q: a place that a query must not find, -1 for none.
    """
    queries_QD = torch.nn.functional.normalize(queries_QD)
    candidates_DN = torch.nn.functional.normalize(candidates_ND).T
    found = []
    step = max(1, SCORES_AT_ONCE // len(candidates_ND))
    for start in range(0, len(queries_QD), step):
        part = slice(start, start + step)
        scores_QN = queries_QD[part] @ candidates_DN
        rows_Q = torch.from_numpy(np.flatnonzero(left_out_Q[part] >= 0))
        scores_QN[rows_Q, torch.from_numpy(left_out_Q[part])[rows_Q]] = -torch.inf
        best = scores_QN.topk(min(DEEPEST, scores_QN.shape[1]))
        found.append(best.indices.masked_fill(best.values == -torch.inf, -1))
    return torch.cat(found).numpy()


def validation_of(
    towers: SentenceTransformer,
    classifier: PairClassifier | None,
    examples: PairExamples,
    question: Question,
) -> Callable[[], dict[str, float]]:
    """Return what evaluates the towers, as they are at the time, on the same pairs."""
    # Where scores are compared with labels, the figures are theirs alone.
    question = replace(question, searched=question.searched and not question.labelled)
    is_told = False  # what is said of the texts once is true of them every time

    def evaluate() -> dict[str, float]:
        nonlocal is_told
        with _untold() if is_told else nullcontext():
            figures = answer(towers, classifier, examples, question).figures()
        is_told = True
        return figures

    return evaluate


@contextmanager
def _untold() -> Iterator[None]:
    """Keep what is logged about the encoding of texts out of the log inside the block."""
    speaker = logging.getLogger(text.__name__)
    was_disabled, speaker.disabled = speaker.disabled, True
    try:
        yield
    finally:
        speaker.disabled = was_disabled


def _own_places(
    queries: list[str], candidates: list[str], relevant: list[list[int]]
) -> Int64[np.ndarray, "Q"]:
    """Return where a query itself stands among the candidates: it is no answer to itself."""
    places = {text: place for place, text in enumerate(candidates)}
    own = [places.get(text, -1) for text in queries]
    return np.array(
        [-1 if place in right else place for place, right in zip(own, relevant, strict=True)],
        dtype=np.int64,
    )
