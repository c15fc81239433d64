"""Column names and the table of interactions that every later stage reads."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

USER = "user_id"
ITEM = "item_id"
TIME = "timestamp"
BEHAVIOUR = "behaviour"
WEIGHT = "weight"

HISTORY = "history"
RANK = "rank"
SCORE = "score"
TITLE = "title"


@dataclass(frozen=True)
class Interactions:
    """Who did something with which item, and when: sorted by user, time, place in the source.

    Attributes:
        table: columns user_id and item_id (string or int64, exactly as given), timestamp (int64),
            and where the source has them behaviour (string) and weight (float32).
        times_are_real: True if timestamp is in microseconds since 1970-01-01 UTC, False if it only
            orders a user's events (a position).
    """

    table: pa.Table
    times_are_real: bool

    def __len__(self) -> int:
        """Return the number of interactions."""
        return int(self.table.num_rows)

    def has(self, name: str) -> bool:
        """Say whether the optional column `name` is present."""
        return name in self.table.column_names

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column."""
        return self.table.column(name)

    def with_table(self, table: pa.Table) -> "Interactions":
        """Return the same kind of interactions over another table, which must be sorted alike."""
        return Interactions(table, self.times_are_real)

    def filter(self, keep: np.ndarray | pa.Array | pa.ChunkedArray) -> "Interactions":
        """Return the interactions where the boolean `keep` is true; the order stays."""
        mask = pa.array(keep) if isinstance(keep, np.ndarray) else keep
        return self.with_table(self.table.filter(mask))

    def user_offsets(self) -> Int64[np.ndarray, "_"]:
        """Return U + 1 bounds: where each user's rows begin, and the number of rows at the end."""
        if len(self) == 0:
            return np.zeros(1, dtype=np.int64)
        users = self.column(USER)  # in chunks: ids of more than 2 GiB do not fit into one
        changed = pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)).to_numpy()
        starts = np.flatnonzero(changed).astype(np.int64) + 1
        return np.concatenate([[0], starts, [len(self)]]).astype(np.int64)

    def to_pandas(self) -> pd.DataFrame:
        """Return the table as a DataFrame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame
