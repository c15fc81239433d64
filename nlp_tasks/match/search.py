"""Texts that are found by their meaning: read, turned into vectors, indexed, searched."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer

from idbert.errors import CheckpointError, ConfigError
from idbert.files import written_aside
from idbert.inputs.text_checks import check_texts
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_settings import SearchSettings
from idbert.tables import RANK, SCORE
from nlp_tasks.match.duplicates import near_duplicates
from nlp_tasks.match.encoding import Task, VectorPrecision, encode_sentences
from nlp_tasks.match.neighbours import all_pairs_neighbours, unit_vectors
from nlp_tasks.match.quantising import VectorType, factory_of, recall_of
from nlp_tasks.match.texts import ID, TEXT, TextCollection

QUERY, NEIGHBOUR, CLUSTER = "query", "neighbour_id", "cluster"
"""Columns of the tables that a search returns, beside id, text, rank and score."""
TEXTS_FILE, INDEX_FOLDER = "texts.parquet", "index"

_MEASURED_QUERIES, _MEASURED_K = 256, 10


@dataclass(frozen=True)
class VectorSettings:
    """What becomes of texts: which vectors, kept how."""

    cosine: bool = True
    """Whether vectors are brought to length 1, so that scores are cosines; else inner products."""
    vectors: VectorType = "float32"
    """How a component is kept: in 32, 16, 8 or 4 bits, or as its sign. Fewer take less memory and
    find fewer of the exact nearest; metrics.json says how many."""
    factory: str | None = None
    """In place of vectors: any FAISS factory string, such as HNSW32 for millions of texts, or
    RaBitQ,Refine(SQ8) for signs whose best are ranked again by 8 bits."""
    prompt: str | None = None
    """What stands before every text and query, as "query: " for E5. Default: what the model has."""
    precision: VectorPrecision = "auto"
    """In which numbers the model multiplies. auto: bfloat16 where the hardware has it, else
    float32."""

    def __post_init__(self) -> None:
        if self.factory is not None and self.vectors != "float32":
            raise ConfigError(
                f"vectors={self.vectors} cannot act beside factory={self.factory}, which says how "
                "vectors are kept. Leave one of them out."
            )


class TextSearch:
    """Finds the texts whose vectors are nearest to those of queries.

    Made by `build` or `load`.

    Attributes:
        model: turns texts into vectors.
        index: of the texts' vectors; row i is text i.
        texts: with their ids.
        settings: which vectors.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        index: VectorIndex,
        texts: TextCollection,
        settings: VectorSettings,
    ) -> None:
        self.model, self.index, self.texts, self.settings = model, index, texts, settings

    @classmethod
    def build(
        cls,
        model: SentenceTransformer,
        texts: TextCollection,
        settings: VectorSettings = VectorSettings(),  # noqa: B008 (frozen)
        *,
        progress: bool = False,
    ) -> "TextSearch":
        """Index texts.

        Args:
            model: towers; a model of two encodes texts as documents.
            texts: with their ids.
            settings: which vectors, kept how.
            progress: show a progress bar on stderr, if that is a terminal.

        Raises:
            ConfigError: the factory string is unknown, or does not fit the vectors.
            DataError: a vector is not finite.
        """
        vectors_ND = _encode(model, texts.texts, settings, "document", progress=progress)
        factory = settings.factory or factory_of(settings.vectors)
        index = VectorIndex.build(vectors_ND, texts.ids, factory=factory)
        made = cls(model, index, texts, settings)
        made._vectors_ND = vectors_ND
        return made

    _vectors_ND: Float32[np.ndarray, "N D"] | None = None

    def save(self, folder: str | Path) -> None:
        """Write texts.parquet and index/, each whole or not at all."""
        folder = Path(folder)
        with written_aside(folder / TEXTS_FILE) as aside:
            pq.write_table(pa.table({ID: self.texts.ids, TEXT: self.texts.texts}), aside)
        self.index.save(folder / INDEX_FOLDER, digest_of_model(self.model))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: SentenceTransformer,
        settings: VectorSettings = VectorSettings(),  # noqa: B008 (frozen)
    ) -> "TextSearch":
        """Open what `save` wrote.

        Args:
            folder: of the texts and their index.
            model: that the index was made with.
            settings: likewise.

        Raises:
            CheckpointError: a file is missing or damaged, or the index is of another model or of
                other texts.
        """
        folder = Path(folder)
        index = VectorIndex.load(folder / INDEX_FOLDER, digest_of_model(model))
        try:
            table = pq.read_table(folder / TEXTS_FILE, columns=[ID, TEXT])
        except (OSError, pa.ArrowException) as error:
            raise CheckpointError(
                f"{folder / TEXTS_FILE} cannot be read: {error}. Index the texts again."
            ) from error
        ids = table.column(ID).combine_chunks()
        if not ids.equals(index.ids):
            raise CheckpointError(
                f"{folder}: {TEXTS_FILE} and {INDEX_FOLDER}/ are of different texts. Index them "
                "again."
            )
        texts = TextCollection(ids, table.column(TEXT).to_pylist(), str(folder / TEXTS_FILE))
        return cls(model, index, texts, settings)

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        settings: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
    ) -> pd.DataFrame:
        """Return the k nearest texts of each query.

        Args:
            queries: texts; a model of two towers encodes them as queries.
            k: texts wanted; fewer come where there are fewer.
            settings: how thoroughly an approximate index is searched.

        Returns:
            Columns query (its number), rank (from 1), id, score, text; best first.

        Raises:
            DataError: a query is empty or no text.
            ConfigError: k is below 1, or a setting cannot act on this index.
        """
        vectors_QD = _encode(self.model, queries, self.settings, "query")
        scores_QK, rows_QK = self.index.search(vectors_QD, k, settings)
        places, columns = np.nonzero(rows_QK >= 0)
        rows = rows_QK[places, columns]
        return pd.DataFrame(
            {
                QUERY: places,
                RANK: columns + 1,
                ID: self._ids(rows),
                SCORE: scores_QK[places, columns],
                TEXT: self._texts(rows),
            }
        )

    def neighbours(self, k: int = 1, *, progress: bool = False) -> pd.DataFrame:
        """Return the k nearest other texts of each text, exactly.

        Args:
            k: neighbours of each text.
            progress: show a progress bar on stderr, if that is a terminal.

        Returns:
            Columns id, rank, neighbour_id, score, text (of the neighbour).

        Raises:
            ConfigError: k is below 1, or this index cannot give its vectors back.
            DataError: there are not k other texts.
        """
        scores_NK, rows_NK = all_pairs_neighbours(
            self._vectors(),
            k,
            cosine=self.settings.cosine,
            device=str(self.model.device),
            progress=progress,
        )
        return pd.DataFrame(
            {
                ID: self._ids(np.repeat(np.arange(len(rows_NK)), k)),
                RANK: np.tile(np.arange(1, k + 1), len(rows_NK)),
                NEIGHBOUR: self._ids(rows_NK.ravel()),
                SCORE: scores_NK.ravel(),
                TEXT: self._texts(rows_NK.ravel()),
            }
        )

    def duplicates(self, threshold: float | int = 0.95, *, progress: bool = False) -> pd.DataFrame:
        """Return the clusters of texts that pairs above a threshold join, the largest first.

        Args:
            threshold: the least score of a pair.
            progress: show a progress bar on stderr, if that is a terminal.

        Returns:
            Columns cluster (from 1), id, text; texts without a near-duplicate are not in it.

        Raises:
            ConfigError: the threshold is no cosine, or this index cannot give its vectors back.
        """
        clusters = near_duplicates(
            self._vectors(),
            threshold,
            cosine=self.settings.cosine,
            device=str(self.model.device),
            progress=progress,
        )
        rows = np.concatenate([np.empty(0, np.int64), *clusters])
        numbers = np.repeat(np.arange(1, len(clusters) + 1), [len(rows) for rows in clusters])
        return pd.DataFrame({CLUSTER: numbers, ID: self._ids(rows), TEXT: self._texts(rows)})

    def recall(self, k: int = _MEASURED_K) -> float:
        """Return which share of the exact k nearest the index finds, measured on 256 of its texts.

        Only what `build` made can say so: a saved index of few bits has lost the exact vectors.

        Args:
            k: nearest texts of each, the text itself among them.

        Raises:
            ConfigError: this search was loaded.
        """
        if self._vectors_ND is None:
            raise ConfigError("recall is measured when the index is built, not when it is loaded.")
        if self.index.factory == "Flat":
            return 1.0
        exact = VectorIndex.build(self._vectors_ND, self.texts.ids)
        drawn = np.random.default_rng(0).permutation(len(self._vectors_ND))[:_MEASURED_QUERIES]
        queries_QD = self._vectors_ND[drawn]
        return recall_of(self.index.search(queries_QD, k)[1], exact.search(queries_QD, k)[1])

    def _vectors(self) -> Float32[np.ndarray, "N D"]:
        return self.index.vectors() if self._vectors_ND is None else self._vectors_ND

    def _ids(self, rows: np.ndarray) -> Any:
        return self.texts.ids.take(pa.array(rows)).to_pandas()

    def _texts(self, rows: np.ndarray) -> list[str]:
        return [self.texts.texts[row] for row in rows.tolist()]


def digest_of_model(model: SentenceTransformer) -> str:
    """Return the SHA-256 of a model's weights, by which an index names the model it was made with.

    Wherever the model comes from: a run, a folder, the hub, or training in this process.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    settings: VectorSettings,
    task: Task,
    *,
    progress: bool = False,
) -> Float32[np.ndarray, "N D"]:
    texts = texts if isinstance(texts, str) else list(texts)
    check_texts(texts)
    vectors_ND = encode_sentences(
        model,
        texts,
        precision=settings.precision,
        prompt=settings.prompt,
        task=task,
        progress=progress,
    )
    return unit_vectors(vectors_ND) if settings.cosine else vectors_ND
