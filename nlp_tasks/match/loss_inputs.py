"""The columns that a loss reads: pairs with labels, positives with negatives, triplets, texts."""

import logging
from collections.abc import Sequence
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from idbert.errors import DataError
from nlp_tasks.match.losses import MatchLoss
from nlp_tasks.match.pairs import PairExamples

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

FIRST, SECOND, NEGATIVE, LABEL = "first", "second", "negative", "label"


def training_set(loss: MatchLoss, examples: PairExamples) -> "Dataset":
    """Return the training pairs as a loss reads them.

    Args:
        loss: It has been checked that it fits the pairs.
        examples: The training pairs.

    Raises:
        DataError: nothing is left to train on.
    """
    from datasets import Dataset

    columns = {
        "labelled": _labelled,
        "positives": _positives,
        "triplets": _triplets,
        "texts": _texts,
    }[loss.inputs](loss, examples)
    if not columns[FIRST]:
        raise DataError(f"{examples.source} holds no row that the loss '{loss.name}' could read.")
    return Dataset.from_dict(columns)


def text_columns(dataset: "Dataset") -> list[str]:
    """Return the columns that hold texts, the first texts' first."""
    return [name for name in dataset.column_names if name != LABEL]


def _labelled(loss: MatchLoss, examples: PairExamples) -> dict[str, Any]:
    labels = loss.labels(examples)
    return {FIRST: examples.firsts, SECOND: examples.seconds, LABEL: labels.tolist()}


def _positives(loss: MatchLoss, examples: PairExamples) -> dict[str, Any]:
    pairs = loss.positives(examples)
    wanted = getattr(loss.options, "hard_negatives", None)
    lists = pairs.negatives or []
    count = max(map(len, lists), default=0) if wanted is None else wanted
    if not count or not lists:
        return {FIRST: pairs.firsts, SECOND: pairs.seconds}
    kept = np.flatnonzero([bool(texts) for texts in lists])
    pairs = _with_negatives(pairs, kept)
    filled = [list(islice(cycle(texts), count)) for texts in pairs.negatives or []]
    columns = zip(*filled, strict=True)
    named = {f"{NEGATIVE}_{number}": list(texts) for number, texts in enumerate(columns, 1)}
    return {FIRST: pairs.firsts, SECOND: pairs.seconds} | named


def _triplets(loss: MatchLoss, examples: PairExamples) -> dict[str, Any]:
    pairs = loss.positives(examples)
    lists = pairs.negatives or []
    kept = np.flatnonzero([bool(texts) for texts in lists])
    pairs = _with_negatives(pairs, kept)
    lists = pairs.negatives or []
    places = np.repeat(np.arange(len(pairs)), [len(texts) for texts in lists])
    pairs = pairs.take(places)
    negatives = list(chain.from_iterable(lists))
    return {FIRST: pairs.firsts, SECOND: pairs.seconds, f"{NEGATIVE}_1": negatives}


def _with_negatives(pairs: PairExamples, kept: Sequence[int] | np.ndarray) -> PairExamples:
    missing = len(pairs) - len(kept)
    if missing:
        logger.warning(
            "%s: %s of %s pairs have no hard negative and are left out",
            pairs.source,
            f"{missing:,}",
            f"{len(pairs):,}",
        )
    return pairs.take(kept)


def _texts(loss: MatchLoss, examples: PairExamples) -> dict[str, Any]:
    texts = list(dict.fromkeys([*examples.firsts, *examples.seconds]))
    return {FIRST: texts, SECOND: texts}
