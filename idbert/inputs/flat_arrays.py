"""Arrays too large for memory: written to a file piece by piece, then mapped, and walked in chunks.

The files are numpy's own .npy files, which hold no code (pickle is refused on reading).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

CHUNK_EVENTS = 2_000_000
"""Events that are looked at together: a few arrays of so many numbers fit into any memory."""


def write_flat(path: Path, length: int, dtype: str, pieces: Iterable[np.ndarray]) -> None:
    """Write pieces end to end as one array; memory holds one piece at a time.

    Args:
        path: a new .npy file.
        length: of all pieces together.
        dtype: of the array; pieces are cast to it.
        pieces: one-dimensional arrays.
    """
    with FlatWriter(path, length, dtype) as flat:
        for piece in pieces:
            flat.write(piece)


class FlatWriter:
    """A one-dimensional .npy file of known length that grows piece by piece.

    Args:
        path: a new .npy file.
        length: of all pieces together.
        dtype: of the array; pieces are cast to it.
    """

    def __init__(self, path: Path, length: int, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._missing = length
        self._file = path.open("wb")
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, piece: Shaped[np.ndarray, "_"]) -> None:
        """Add a piece at the end."""
        self._missing -= len(piece)
        # Not by tofile, whose error does not say that the disk is full.
        self._file.write(np.ascontiguousarray(piece, self._dtype).data)

    def __enter__(self) -> "FlatWriter":
        """Begin to write."""
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Close the file, which must be whole by now."""
        self._file.close()
        if failure is None and self._missing:
            raise ValueError(f"{self._missing} values are missing at the end of {self._file.name}")


def open_flat(path: Path) -> Shaped[np.ndarray, "_"]:
    """Map an array that `FlatWriter` wrote; pages are read when they are used."""
    flat: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return flat


def event_chunks(length: int) -> Iterator[slice]:
    """Yield slices that cut so many events into chunks."""
    for start in range(0, length, CHUNK_EVENTS):
        yield slice(start, min(start + CHUNK_EVENTS, length))


def user_chunks(offsets: Int64[np.ndarray, "_"]) -> Iterator[slice]:
    """Yield slices of users that follow each other and have a chunk of events together.

    Args:
        offsets: U + 1 bounds of the users' events. A user with more than a chunk is alone.
    """
    first, num_users = 0, len(offsets) - 1
    while first < num_users:
        last = int(np.searchsorted(offsets, offsets[first] + CHUNK_EVENTS, side="right")) - 1
        last = min(max(last, first + 1), num_users)
        yield slice(first, last)
        first = last
