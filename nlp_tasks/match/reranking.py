"""Reranking: a cross-encoder reads a query and each candidate together, and orders them anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int64

from idbert.errors import CheckpointError, ConfigError, DataError, suggestion
from idbert.inputs.text_checks import check_texts
from idbert.nn.progress_bars import without_progress_bars
from idbert.run_dir import MARKER
from nlp_tasks.cls.classifier import Classifier

YES = ("1", "true", "yes", "same", "relevant", "entailment", "duplicate", "paraphrase")
"""Names of the label that says that two texts belong together."""


class Reranker(Protocol):
    """Anything that scores pairs of texts; higher means that they belong together."""

    def scores(self, queries: Sequence[str], candidates: Sequence[str]) -> Float32[np.ndarray, "N"]:
        """Return a score a pair."""


class ClassifierReranker:
    """A classifier of pairs as a reranker: the probability of one label, or the number it tells.

    Args:
        classifier: Trained on pairs.
        label: The label whose probability counts; None: the one of YES that there is.

    Raises:
        ConfigError: it is not trained on pairs, knows several labels of a text, or it is not clear
            which label counts.
    """

    def __init__(self, classifier: Classifier, label: str | None = None) -> None:
        if not classifier.reader.is_pair:
            raise ConfigError(
                "This classifier reads single texts, and a reranker reads pairs. Give a run of "
                "nlp_cls that was trained with data.pair=true."
            )
        self.classifier = classifier
        self._place = self._place_of(label)

    def scores(self, queries: Sequence[str], candidates: Sequence[str]) -> Float32[np.ndarray, "N"]:
        """Return the probability of the label, or the number, of each pair."""
        decisions, probabilities_NC = self.classifier.decide(list(queries), list(candidates))
        if self._place is None or probabilities_NC is None:
            return np.asarray(decisions, np.float32)
        return np.asarray(probabilities_NC[:, self._place], np.float32)

    def _place_of(self, label: str | None) -> int | None:
        names = [str(name) for name in self.classifier.labels.names]
        if self.classifier.labels.kind == "multi":
            raise ConfigError("This classifier tells several labels of a pair, not how it fits.")
        if not names:
            if label is not None:
                raise ConfigError(f"label '{label}' cannot act: this classifier tells a number.")
            return None
        if label is not None:
            if label not in names:
                raise ConfigError(
                    f"The classifier knows no label '{label}'.{suggestion(label, names)} Choose "
                    f"from: {', '.join(names)}."
                )
            return names.index(label)
        meant = [place for place, name in enumerate(names) if name.lower() in YES]
        if len(meant) != 1:
            raise ConfigError(
                f"Which label says that two texts belong together? Name one of: {', '.join(names)}."
            )
        return meant[0]


class CrossEncoderReranker:
    """A CrossEncoder of sentence-transformers as a reranker.

    Args:
        model: With one output.

    Raises:
        ConfigError: it has several outputs.
    """

    def __init__(self, model: Any) -> None:
        if model.num_labels != 1:
            raise ConfigError(
                f"This CrossEncoder has {model.num_labels} outputs, and a reranker needs one score."
            )
        self.model = model

    def scores(self, queries: Sequence[str], candidates: Sequence[str]) -> Float32[np.ndarray, "N"]:
        """Return the score of each pair."""
        pairs = list(zip(queries, candidates, strict=True))
        return np.asarray(self.model.predict(pairs, show_progress_bar=False), np.float32)


def open_reranker(
    folder_or_name: str | Path, *, label: str | None = None, device: str = "auto"
) -> Reranker:
    """Open a cross-encoder.

    Args:
        folder_or_name: A run of nlp_cls on pairs; or a CrossEncoder of sentence-transformers, a
            folder or a name on the Hugging Face hub.
        label: Of a run of nlp_cls, the label whose probability counts.
        device: auto (the GPU where there is one), or torch's name of a device.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: it is no model of pairs, or it is not clear which label counts.
    """
    if (Path(folder_or_name) / MARKER).is_file():
        return ClassifierReranker(Classifier.load(folder_or_name, device=device), label)
    if label is not None:
        raise ConfigError(f"label '{label}' acts only on a run of nlp_cls. Leave it out.")
    from sentence_transformers import CrossEncoder

    try:
        with without_progress_bars():
            model = CrossEncoder(str(folder_or_name), device=None if device == "auto" else device)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"'{folder_or_name}' cannot be opened as a cross-encoder: {reason} Give a run of "
            "nlp_cls on pairs, or the folder of a CrossEncoder."
        ) from error
    return CrossEncoderReranker(model)


def rerank(
    reranker: Reranker | Classifier, query: str, candidates: Sequence[str], k: int | None = None
) -> tuple[Int64[np.ndarray, "K"], Float32[np.ndarray, "K"]]:
    """Order candidates by what a cross-encoder says of them.

    Args:
        reranker: From `open_reranker`; or a classifier of pairs.
        query: The first text of each pair.
        candidates: Texts, such as a search has found.
        k: How many of the best; None: all.

    Returns:
        Places in `candidates`, the best first, and their scores. Of equal ones the earlier is
        first.

    Raises:
        ConfigError: the classifier is not one of pairs, or k is below 1.
        DataError: a text is empty.
    """
    if k is not None and k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1.")
    if isinstance(reranker, Classifier):
        reranker = ClassifierReranker(reranker)
    if not isinstance(query, str):
        raise DataError(f"The query is {query!r}, not a text.")
    if not len(candidates):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    check_texts([query])
    check_texts(list(candidates))
    scores_N = reranker.scores([query] * len(candidates), list(candidates))
    order = np.argsort(-scores_N, kind="stable")[:k].astype(np.int64)
    return order, scores_N[order]
