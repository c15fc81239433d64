"""Logs of a few events, as frames and as files."""

from pathlib import Path

import pandas as pd

from idbert.tables import Interactions

NOON = 1_700_000_000


def frame_of(**columns: object) -> pd.DataFrame:
    """A log with the given columns; the others are filled in."""
    length = len(next(iter(columns.values())))
    filled = {"user_id": ["u"] * length, "item_id": ["i"] * length, "timestamp": range(length)}
    return pd.DataFrame(filled | columns)


def write(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def items(interactions: Interactions) -> list[object]:
    return interactions.column("item_id").to_pylist()


def users(interactions: Interactions) -> list[object]:
    return interactions.column("user_id").to_pylist()


def times(interactions: Interactions) -> list[int]:
    return interactions.column("timestamp").to_pylist()
