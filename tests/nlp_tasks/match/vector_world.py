"""Tiny towers over the words of the text world, and vectors in known clusters."""

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tests.nlp_tasks.text_world import FILLERS, HIDDEN, bert_folder

MAX_LENGTH = 24


def transformer(folder: Path, *, seed: int = 0) -> Transformer:
    module = Transformer(str(bert_folder(folder, seed=seed)))
    module.max_seq_length = MAX_LENGTH
    return module


def tower(folder: Path, *, normalize: bool = True, mode: str = "mean") -> SentenceTransformer:
    """A BERT with random weights, its tokens' vectors pooled."""
    behind = [Normalize()] if normalize else []
    modules = [transformer(folder), Pooling(HIDDEN, pooling_mode=mode), *behind]
    return SentenceTransformer(modules=modules, device="cpu").eval()


def two_towers(folder: Path) -> SentenceTransformer:
    """Two BERTs with different random weights."""
    routes = [
        [transformer(folder / name, seed=seed), Pooling(HIDDEN)]
        for seed, name in enumerate(("query", "document"))
    ]
    return SentenceTransformer(modules=[Router.for_query_document(*routes)], device="cpu").eval()


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """Texts of 1 to 30 words, some beyond MAX_LENGTH."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(FILLERS, draw.integers(1, 31))) for _ in range(count)]


def clustered(count: int, *, width: int = 16, seed: int = 0) -> np.ndarray:
    """Vectors around a few centres."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(2, count // 10), width))
    drawn = centres[draw.integers(0, len(centres), count)]
    return (drawn + 0.3 * draw.standard_normal((count, width))).astype(np.float32)
