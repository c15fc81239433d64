"""Pairs of texts of the tiny world: they belong together if one deciding word stands in both."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from nlp_tasks.match.pairs import PairExamples
from nlp_tasks.match.settings import TowerSettings
from nlp_tasks.match.towers import build_towers
from tests.nlp_tasks.text_world import DECIDING, FILLERS, bert_folder, texts

PLAIN = TowerSettings()
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def pairs(count: int, kind: str = "binary", *, seed: int = 0) -> PairExamples:
    """Return different pairs; as scores up to 1 or from 4 to 5, as classes "no" and "yes"."""
    table = texts(2 * count, seed=seed)
    order = np.random.default_rng(seed).permutation(2 * count)
    words, labels = table["text"].to_numpy()[order], table["label"].to_numpy()[order]
    same = (labels[:count] == labels[count:]).astype(np.int64)
    targets = {
        "binary": same,
        "class": same,
        "score": (4.0 * same + 0.5 * (np.arange(count) % 3)).astype(np.float32),
        "none": None,
    }[kind]
    return PairExamples(
        firsts=words[:count].tolist(),
        seconds=words[count:].tolist(),
        targets=targets,
        kind=kind,
        names=("other", "same") if kind == "class" else (),
        rows=np.arange(count),
        source="world",
        max_score=5.0 if kind == "score" else 1.0,
    )


def with_negatives(examples: PairExamples, counts: list[int]) -> PairExamples:
    """Return the same pairs with so many hard negatives of each, cyclically."""

    def texts_of(row: int) -> list[str]:
        count = counts[row % len(counts)]
        return [f"{DECIDING[n % 3]} {FILLERS[row % 20]} {FILLERS[n]}" for n in range(count)]

    return replace(examples, negatives=[texts_of(row) for row in range(len(examples))])


def tiny_towers(folder: Path, settings: TowerSettings = PLAIN, **changes: object):
    """Build towers on a BERT with random weights."""
    return build_towers(bert_folder(folder, **changes), settings)
