"""Recommendations that are made batch by batch, and written as they are made."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from tqdm import tqdm

from idbert.errors import ConfigError, DataError
from idbert.files import written_aside
from idbert.retrieval.histories import Histories

FORMATS = (".csv", ".parquet")
"""Endings of the files that recommendations are written to."""


class RecommendationBatches:
    """Recommendations of some users at a time; made by `Recommender.recommend_batches`.

    Args:
        histories: of all users.
        schema: of a batch: user_id (or history), rank, item_id, score.
        users_at_once: users of a batch.
        batch: makes the recommendations of the users from the given one on.
    """

    def __init__(
        self,
        histories: Histories,
        schema: pa.Schema,
        users_at_once: int,
        batch: Callable[[int], pa.RecordBatch],
    ) -> None:
        self.histories = histories
        self.schema = schema
        self._users_at_once = users_at_once
        self._batch = batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.histories) / self._users_at_once)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Make one batch after the other; users stay in their order, the best item first."""
        for start in range(0, len(self.histories), self._users_at_once):
            yield self._batch(start)

    def write(self, path: str | Path, *, progress: bool = False) -> int:
        """Write all as a file, whole or not at all, a row group or block of lines a batch.

        Args:
            path: ends in .parquet or .csv.
            progress: whether to show a bar on stderr, if it is a terminal.

        Returns:
            The number of recommendations.

        Raises:
            ConfigError: the path has another ending.
            DataError: a folder is there, or the disk has no room.
        """
        path = Path(path)
        if path.is_dir():
            raise DataError(f"{path} is a folder. Name another file.")
        if path.suffix not in FORMATS:
            raise ConfigError(f"{path} must end in {' or '.join(FORMATS)}.")
        count = 0
        hidden = None if progress else True
        with (
            written_aside(path) as aside,
            self._writer(aside, path.suffix) as writer,
            tqdm(total=len(self.histories), unit=" users", disable=hidden, leave=False) as bar,
        ):
            for batch in self:
                writer.write_batch(batch)
                count += len(batch)
                bar.update(min(self._users_at_once, len(self.histories) - bar.n))
        return count

    def _writer(self, aside: Path, suffix: str) -> pq.ParquetWriter | pa_csv.CSVWriter:
        if suffix == ".parquet":
            return pq.ParquetWriter(aside, self.schema, compression="zstd")
        options = pa_csv.WriteOptions(quoting_style="needed", quoting_header="needed")
        return pa_csv.CSVWriter(aside, self.schema, write_options=options)
