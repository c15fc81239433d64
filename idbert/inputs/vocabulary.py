"""External item ids and their rows in the embedding table, with counts; saved with the model.

Row 0 is padding, 1 the mask, 2 an unknown item, 3 the start token; items follow from row 4, the
most popular first. A model's weights mean nothing without the vocabulary that it was trained with.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64, Integer

from idbert.errors import DataError, suggestion
from idbert.files import written_aside
from idbert.rows import FIRST_ITEM, UNK
from idbert.tables import BEHAVIOUR, ITEM, Interactions

logger = logging.getLogger(__name__)

Ids: TypeAlias = Sequence[str] | Sequence[int] | np.ndarray | pd.Series | pa.Array | pa.ChunkedArray
"""Item ids in whatever holds them: all strings or all integers."""

FORMAT = 1
_FILE = "vocabulary.parquet"
_METADATA = b"idbert.vocabulary"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The catalogue: which item stands in which row, and how often it was seen in training.

    Attributes:
        ids: item ids, string or int64; `ids[i]` stands in row `FIRST_ITEM + i`. Ordered by training
            count, most frequent first, then by id; items added by `extend` come last.
        counts_V: training events of every row; 0 for the special tokens.
        behaviours: names of the behaviours, most frequent first; empty if the log has none. The
            place of a name is its segment id.
    """

    ids: pa.Array
    counts_V: Int64[np.ndarray, "V"]
    behaviours: tuple[str, ...] = ()

    @classmethod
    def from_interactions(
        cls, catalogue: Interactions, train: Interactions | None = None
    ) -> "Vocabulary":
        """Give a row to every item of `catalogue`, the most frequent in `train` first.

        Args:
            catalogue: the whole log: its items can be recommended, whether trained on or not.
            train: the part that is trained on, whose counts are kept; None: all of `catalogue`.

        Raises:
            DataError: `catalogue` is empty.
        """
        ids, counts = _counted(catalogue.column(ITEM))
        if train is not None:
            trained, frequencies = _counted(train.column(ITEM))
            counts = pc.fill_null(frequencies.take(pc.index_in(ids, value_set=trained)), 0)
        behaviours: tuple[str, ...] = ()
        if catalogue.has(BEHAVIOUR):
            names, frequencies = _counted(catalogue.column(BEHAVIOUR))
            behaviours = by_frequency(names, frequencies)
        return cls.from_counts(ids, counts, behaviours)

    @classmethod
    def from_counts(
        cls, ids: pa.Array, counts: pa.Array, behaviours: tuple[str, ...] = ()
    ) -> "Vocabulary":
        """Give a row to every id, the most frequent first.

        Args:
            ids: of the catalogue, each once.
            counts: how often each occurs in training.
            behaviours: their names, most frequent first.

        Raises:
            DataError: there are no ids.
        """
        if len(ids) == 0:
            raise DataError("no interactions, hence no items: the catalogue would be empty.")
        order = pc.sort_indices(
            pa.table({"id": ids, "count": counts}),
            sort_keys=[("count", "descending"), ("id", "ascending")],
        )
        vocabulary = cls(ids.take(order), _with_specials(counts.take(order)), behaviours)
        logger.info(
            "catalogue: %d items, %d of them never occur in training",
            vocabulary.num_items,
            len(vocabulary.never_trained),
        )
        return vocabulary

    def __len__(self) -> int:
        """Return V, the number of rows, special tokens included."""
        return FIRST_ITEM + len(self.ids)

    @property
    def num_items(self) -> int:
        """The number of items, special tokens not counted."""
        return len(self.ids)

    @property
    def never_trained(self) -> Int64[np.ndarray, "N"]:
        """The rows of items that do not occur in training: a model can only guess about them."""
        return FIRST_ITEM + np.flatnonzero(self.counts_V[FIRST_ITEM:] == 0)

    def rows(self, ids: Ids) -> Int64[np.ndarray, "N"]:
        """Return the row of each id; UNK for an id that is not in the catalogue.

        Raises:
            DataError: an id is missing (null), or the ids are not of the vocabulary's type.
        """
        places = pc.index_in(self._as_own_type(ids), value_set=self.ids)
        # The place of an unknown id is null; the shift by FIRST_ITEM makes it UNK.
        rows: np.ndarray = pc.fill_null(places, UNK - FIRST_ITEM).to_numpy().astype(np.int64)
        return rows + FIRST_ITEM

    def ids_of(self, rows: Integer[np.ndarray, "N"]) -> list[Any]:
        """Return the id in each row, exactly as the log gave it.

        Raises:
            DataError: a row is a special token, or outside the vocabulary.
        """
        outside = rows[(rows < FIRST_ITEM) | (rows >= len(self))]
        if len(outside):
            raise DataError(
                f"row {outside[0]} holds no item: items stand in rows {FIRST_ITEM} to "
                f"{len(self) - 1} (rows below are special tokens)."
            )
        ids: list[Any] = self.ids.take(pa.array(rows - FIRST_ITEM)).to_pylist()
        return ids

    def behaviour_rows(
        self, names: Sequence[str] | pa.Array | pa.ChunkedArray
    ) -> Int64[np.ndarray, "N"]:
        """Return the segment id of each behaviour name.

        Raises:
            DataError: a name is not among the vocabulary's behaviours.
        """
        given = names if isinstance(names, pa.Array | pa.ChunkedArray) else pa.array(names)
        given = given.cast(pa.string())
        places = pc.index_in(given, value_set=pa.array(self.behaviours, pa.string()))
        if places.null_count:
            unknown = str(given.filter(pc.is_null(places))[0].as_py())
            raise DataError(
                f"column '{BEHAVIOUR}': {places.null_count} events have a behaviour that the "
                f"vocabulary does not know, the first is '{unknown}'; known: "
                f"{', '.join(self.behaviours) or 'none'}.{suggestion(unknown, self.behaviours)}"
            )
        rows: np.ndarray = places.to_numpy().astype(np.int64)
        return rows

    def extend(self, new_ids: Ids) -> "Vocabulary":
        """Return a vocabulary with further items in new rows at the end; old rows keep their place.

        Ids that are there already, or given twice, are not added again. The count of a new item is
        0; the model needs as many new rows in its embedding table.

        Raises:
            DataError: as in `rows`.
        """
        given = self._as_own_type(new_ids)
        new = pc.unique(given.filter(pc.is_null(pc.index_in(given, value_set=self.ids))))
        counts_V = np.concatenate([self.counts_V, np.zeros(len(new), dtype=np.int64)])
        return Vocabulary(pa.concat_arrays([self.ids, new]), counts_V, self.behaviours)

    def fingerprint(self) -> str:
        """Return a SHA-256 that two vocabularies share if and only if all their rows are equal.

        Counts do not enter: they do not change what a row means.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([str(self.ids.type), self.behaviours]).encode())
        if pa.types.is_integer(self.ids.type):
            digest.update(self.ids.to_numpy().astype("<i8").tobytes())
        else:  # lengths and text: ("ab", "c") and ("a", "bc") differ
            digest.update(pc.binary_length(self.ids).to_numpy().astype("<i8").tobytes())
            digest.update(_bytes_of(self.ids))
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `vocabulary.parquet` (columns id, count) into `folder`, whole or not at all."""
        header = json.dumps({"format": FORMAT, "behaviours": self.behaviours})
        table = pa.table({"id": self.ids, "count": self.counts_V[FIRST_ITEM:]})
        with written_aside(Path(folder) / _FILE) as path:
            pq.write_table(table.replace_schema_metadata({_METADATA: header}), path)

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read the vocabulary that `save` wrote into `folder`.

        Raises:
            DataError: the file is missing, damaged, or not a vocabulary.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise DataError(f"{path} is missing: {folder} is not the folder of a vocabulary.")
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} is not a complete parquet file. Copy it again.") from error
        header = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
        if header.get("format") != FORMAT:
            raise DataError(
                f"{path} is not an idbert vocabulary of format {FORMAT} "
                f"(found: {header.get('format', 'no format')})."
            )
        ids = table.column("id").combine_chunks()
        if ids.null_count or len(pc.unique(ids)) != len(ids):
            raise DataError(f"{path} holds an id twice or a missing id: it was changed by hand.")
        return cls(ids, _with_specials(table.column("count")), tuple(header["behaviours"]))

    def _as_own_type(self, ids: Ids) -> pa.Array | pa.ChunkedArray:
        """Return ids as an Arrow array of the vocabulary's type; refuse other types and nulls."""
        if isinstance(ids, str):  # else its letters would be looked up
            raise DataError(f"ids are a list of ids, not the text '{ids}'. Give ['{ids}'].")
        try:
            given = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(
                f"ids must be all strings or all integers of 64 bits: {error}."
            ) from error
        if pa.types.is_dictionary(given.type):
            given = given.cast(given.type.value_type)
        own, found = _kind(self.ids.type), _kind(given.type)
        if len(given) and found != own:
            raise DataError(
                f"ids are {found}, the vocabulary's are {own}; give them as they stand in the log."
            )
        if given.null_count:
            raise DataError(f"{given.null_count} of {len(given)} ids are missing (null).")
        try:
            return given.cast(self.ids.type)
        except pa.ArrowInvalid as error:
            raise DataError(f"an id does not fit {self.ids.type}: {error}.") from error


def by_frequency(names: pa.Array, frequencies: pa.Array) -> tuple[str, ...]:
    """Return the names of behaviours, most frequent first, then by name."""
    ranked = zip((-frequencies.to_numpy()).tolist(), names.to_pylist(), strict=True)
    return tuple(name for _, name in sorted(ranked))


def _counted(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Return the distinct values of a column and how often each occurs (int64)."""
    counted = pc.value_counts(column)
    return counted.field("values"), counted.field("counts")


def _with_specials(counts: pa.Array | pa.ChunkedArray) -> Int64[np.ndarray, "V"]:
    """Put the zero counts of the special tokens before the items' counts."""
    return np.concatenate([np.zeros(FIRST_ITEM, dtype=np.int64), counts.to_numpy()])


def _kind(arrow_type: pa.DataType) -> str:
    """Say in a reader's words what kind of ids a column holds."""
    if pa.types.is_integer(arrow_type):
        return "integers"
    if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type):
        return "strings"
    return f"of type {arrow_type}"


def _bytes_of(texts: pa.Array) -> pa.Buffer | bytes:
    """Return the UTF-8 of all texts end to end, without making objects of them."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return b""
    width = "<i8" if pa.types.is_large_string(texts.type) else "<i4"
    bounds = np.frombuffer(offsets, width)[[texts.offset, texts.offset + len(texts)]]
    return data.slice(int(bounds[0]), int(bounds[1] - bounds[0]))
