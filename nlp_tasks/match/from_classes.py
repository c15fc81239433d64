"""Pairs made of texts that have a class: the same class belongs together, another does not."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int64

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.pairs import PairExamples

logger = logging.getLogger(__name__)


def pairs_of_classes(
    texts: Sequence[str],
    labels: Sequence[str | int],
    *,
    positives_per_text: int = 1,
    negatives_per_text: int = 1,
    seed: int = 0,
    source: str = "classes",
) -> PairExamples:
    """Make pairs of kind "binary" of labelled texts.

    Each text is paired with `positives_per_text` others of its class (with all, if there are
    fewer), the next ones on a ring in random order, so that each stands in as many pairs as any
    other; and with `negatives_per_text` of other classes, drawn in even steps through all of
    them from a random start. A pair is made once; a text that occurs repeatedly counts once; and
    one that is labelled with several classes is left out.

    Args:
        texts: N texts.
        labels: the class of each.
        positives_per_text: 0 or more.
        negatives_per_text: 0 or more.
        seed: the same seed makes the same pairs.
        source: what messages call the texts.

    Returns:
        Pairs whose `rows` are the places of their first texts; positives before negatives.

    Raises:
        ConfigError: a number is negative, or both are 0.
        DataError: no class has two texts, or there is only one class, or not a label a text.
    """
    if (
        min(positives_per_text, negatives_per_text) < 0
        or positives_per_text + negatives_per_text < 1
    ):
        raise ConfigError(
            f"positives_per_text is {positives_per_text} and negatives_per_text "
            f"{negatives_per_text}; give numbers from 0, not both 0."
        )
    if len(texts) != len(labels):
        raise DataError(f"{source}: {len(texts)} texts and {len(labels)} labels. Label each text.")
    rows_N, classes_N = _one_row_a_text(texts, labels, source)
    sizes_C = np.bincount(classes_N) if len(classes_N) else np.zeros(0, np.int64)
    if positives_per_text and not (sizes_C > 1).any():
        raise DataError(f"{source}: no class has two different texts, so there are no positives.")
    if negatives_per_text and len(sizes_C) < 2:
        raise DataError(f"{source}: negatives need two classes, and there is {len(sizes_C)}.")
    single = int((sizes_C == 1).sum())
    if positives_per_text and single:
        logger.warning("%s: %d classes have only one text, which gets no positive", source, single)
    rng = np.random.default_rng(seed)
    # In the order of classes, and of chance within a class.
    order_N = np.lexsort((rng.random(len(rows_N)), classes_N))
    classes_N = classes_N[order_N]
    sizes_N, starts_N = sizes_C[classes_N], (np.cumsum(sizes_C) - sizes_C)[classes_N]
    first, second, is_positive = [], [], []
    for found, wanted, value in (
        (_on_the_ring(sizes_N, starts_N, positives_per_text), positives_per_text, 1),
        (_in_other_classes(sizes_N, starts_N, negatives_per_text, rng), negatives_per_text, 0),
    ):
        if wanted:
            a_T, b_T = _once(*found, len(rows_N))
            first.append(a_T)
            second.append(b_T)
            is_positive.append(np.full(len(a_T), value, np.int64))
    first_T, second_T = (rows_N[order_N[np.concatenate(part)]] for part in (first, second))
    targets_T = np.concatenate(is_positive)
    logger.info("%s: %s pairs, %s of one class", source, len(targets_T), int(targets_T.sum()))
    return PairExamples(
        firsts=[texts[row] for row in first_T],
        seconds=[texts[row] for row in second_T],
        targets=targets_T,
        kind="binary",
        rows=first_T,
        source=source,
    )


def _one_row_a_text(
    texts: Sequence[str], labels: Sequence[str | int], source: str
) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Return the first row of each text and its class; texts of several classes are left out."""
    frame = pd.DataFrame({"text": pd.Series(list(texts), dtype=object), "label": list(labels)})
    classes = frame.groupby("text", sort=False)["label"].transform("nunique").to_numpy()
    unclear = np.flatnonzero(classes > 1)
    if len(unclear):
        named = ", ".join(f"{row + 1:,}" for row in unclear[:5])
        logger.warning(
            "%s: the texts of %s rows have several labels (rows %s), and are left out",
            source, f"{len(unclear):,}", named,
        )  # fmt: skip
    keep = (classes == 1) & ~frame.duplicated("text").to_numpy()
    rows = np.flatnonzero(keep).astype(np.int64)
    return rows, pd.factorize(frame["label"].to_numpy()[rows])[0].astype(np.int64)


def _on_the_ring(
    sizes_N: np.ndarray, starts_N: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pair each text of a sorted list with the `count` that follow it in its class."""
    places_N1 = np.arange(len(sizes_N))[:, None]
    sizes_N1, starts_N1 = sizes_N[:, None], starts_N[:, None]
    steps = np.arange(1, min(count, int(sizes_N.max(initial=1)) - 1) + 1)
    partners = starts_N1 + (places_N1 - starts_N1 + steps) % sizes_N1
    there = np.broadcast_to(steps < sizes_N1, partners.shape)
    return np.broadcast_to(places_N1, partners.shape)[there], partners[there]


def _in_other_classes(
    sizes_N: np.ndarray, starts_N: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pair each text of a sorted list with `count` of other classes, in even steps."""
    total = len(sizes_N)
    places_N1 = np.arange(total)[:, None]
    others_N1 = np.maximum(total - sizes_N, 1)[:, None]
    start_N1 = rng.integers(others_N1)
    steps = np.arange(min(count, int(others_N1.max(initial=1))))
    # Floors of even steps are all different as long as there are as many texts as steps.
    taken_N1 = np.clip(others_N1, 1, max(len(steps), 1))
    offsets = (start_N1 + steps * others_N1 // taken_N1) % others_N1
    partners = ((starts_N + sizes_N)[:, None] + offsets) % max(total, 1)
    there = np.broadcast_to(steps < others_N1, partners.shape)
    return np.broadcast_to(places_N1, partners.shape)[there], partners[there]


def _once(first_T: np.ndarray, second_T: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair once, whichever way round, in the order of its first occurrence."""
    keys_T = np.minimum(first_T, second_T) * total + np.maximum(first_T, second_T)
    _, kept = np.unique(keys_T, return_index=True)
    kept.sort()
    return first_T[kept], second_T[kept]
