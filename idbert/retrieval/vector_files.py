"""Vectors on disk: parquet parts of ids and vectors, which any reader of parquet opens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from idbert.errors import DataError
from idbert.files import written_aside

_METADATA = b"idbert.vectors"
_ID, _VECTOR = "id", "vector"


def part_path(folder: Path, number: int) -> Path:
    """Return the file of a part; names sort as numbers do."""
    return folder / f"part-{number:05d}.parquet"


def write_part(
    path: Path, ids: pa.Array, vectors_ND: Float32[np.ndarray, "N D"], made_of: Mapping[str, Any]
) -> None:
    """Write vectors as a file with the columns id and vector, whole or not at all.

    Args:
        path: of the part.
        ids: one for each vector.
        vectors_ND: become a list of D float32 each.
        made_of: what the vectors depend on, plain values; see `is_written`.
    """
    flat = pa.array(np.ascontiguousarray(vectors_ND, np.float32).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    table = pa.table({_ID: ids, _VECTOR: vectors})
    table = table.replace_schema_metadata({_METADATA: _header(made_of)})
    with written_aside(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def is_written(path: Path, made_of: Mapping[str, Any]) -> bool:
    """Say whether a part is there that was made of the same."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return bool(metadata.get(_METADATA) == _header(made_of))


def read_parts(paths: Sequence[Path]) -> tuple[pa.Array, Float32[np.ndarray, "N D"]]:
    """Return the ids and vectors of all parts, in their order.

    Raises:
        DataError: a part is cut off, holds no vectors, or vectors of another width than the first.
    """
    files = [_opened(path) for path in paths]
    widths = {file.schema_arrow.field(_VECTOR).type.list_size: path for file, path in files}
    if len(widths) != 1:
        named = ", ".join(f"{width} in {path.name}" for width, path in widths.items())
        raise DataError(f"the parts hold vectors of different widths: {named or 'no part'}.")
    ends = np.cumsum([file.metadata.num_rows for file, _ in files])
    vectors_ND = np.empty((int(ends[-1]), next(iter(widths))), np.float32)
    ids = []
    for (file, path), end in zip(files, ends.tolist(), strict=True):
        try:
            table = file.read()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} is damaged. Copy it again, or export it again.") from error
        rows = vectors_ND[end - table.num_rows : end]
        column = table.column(_VECTOR).combine_chunks()
        rows[:] = column.flatten().to_numpy().reshape(rows.shape)
        ids += table.column(_ID).chunks
    return pa.chunked_array(ids, files[0][0].schema_arrow.field(_ID).type).combine_chunks(), (
        vectors_ND
    )


def _opened(path: Path) -> tuple[pq.ParquetFile, Path]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is cut short or damaged. Copy or export it again.") from error
    schema = file.schema_arrow
    if not {_ID, _VECTOR} <= set(schema.names) or not pa.types.is_fixed_size_list(
        schema.field(_VECTOR).type
    ):
        raise DataError(f"{path} does not hold the columns {_ID} and {_VECTOR} of an export.")
    return file, path


def _header(made_of: Mapping[str, Any]) -> bytes:
    return json.dumps(made_of, sort_keys=True).encode()
