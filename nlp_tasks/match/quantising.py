"""Vectors in fewer bits: which index keeps them, how much of the exact answer is left."""

import time
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float32, Int64

from idbert.errors import ConfigError, suggestion
from idbert.retrieval.index import VectorIndex
from nlp_tasks.match.neighbours import unit_vectors

VectorType = Literal["float32", "float16", "int8", "int4", "binary"]

FACTORIES: Mapping[str, str] = {
    "float32": "Flat",
    "float16": "SQfp16",
    "int8": "SQ8",
    "int4": "SQ4",
    "binary": "RaBitQ",
}
"""The FAISS factory string of each type: bits a component, all vectors searched. Binary vectors
are signs about the mean with two corrections a vector (Gao and Long 2024, "RaBitQ")."""


def factory_of(vector_type: str) -> str:
    """Return the factory string of a type of vectors.

    Raises:
        ConfigError: there is no such type.
    """
    if vector_type not in FACTORIES:
        raise ConfigError(
            f"there are no vectors of type '{vector_type}'.{suggestion(vector_type, FACTORIES)} "
            f"Choose from {', '.join(FACTORIES)}."
        )
    return FACTORIES[vector_type]


def recall_of(found_QK: Int64[np.ndarray, "Q K"], exact_QK: Int64[np.ndarray, "Q K"]) -> float:
    """Return the share of the exact nearest rows that were found, -1 counting as none."""
    is_found = (found_QK[:, :, None] == exact_QK[:, None, :]) & (exact_QK[:, None, :] >= 0)
    return float(is_found.any(axis=1).sum() / max(1, (exact_QK >= 0).sum()))


def measure_types(
    vectors_ND: Float32[np.ndarray, "N D"],
    queries_QD: Float32[np.ndarray, "Q D"],
    k: int = 10,
    *,
    factories: Mapping[str, str] = FACTORIES,
    cosine: bool = True,
) -> pd.DataFrame:
    """Build an index of each type and say what is left of the exact answer.

    Args:
        vectors_ND: what is searched.
        queries_QD: what is searched for.
        k: rows of each query.
        factories: FAISS factory strings by name.
        cosine: whether all vectors are first brought to length 1.

    Returns:
        Columns vectors, factory, bytes_a_vector, recall (of float32's k nearest), seconds (of the
        search), one row a type.
    """
    if cosine:
        vectors_ND, queries_QD = unit_vectors(vectors_ND), unit_vectors(queries_QD)
    ids = pa.array(np.arange(len(vectors_ND)))
    exact_QK = VectorIndex.build(vectors_ND, ids).search(queries_QD, k)[1]
    measured = []
    for name, factory in factories.items():
        index = VectorIndex.build(vectors_ND, ids, factory=factory)
        started = time.perf_counter()
        found_QK = index.search(queries_QD, k)[1]
        measured.append(
            {
                "vectors": name,
                "factory": factory,
                "bytes_a_vector": round(index.num_bytes / len(index)),
                "recall": recall_of(found_QK, exact_QK),
                "seconds": time.perf_counter() - started,
            }
        )
    return pd.DataFrame(measured)
