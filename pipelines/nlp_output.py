"""Predictions on their way to a file: in parts that survive an interruption, then beside the input.

The parts of OUTPUT lie in OUTPUT.parts: what was predicted of some rows, and a manifest that says
of which input, by which model.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from idbert.errors import DataError
from idbert.files import digest_of, written_aside
from idbert.run_dir import MARKER, RunDir
from nlp_tasks.cls.classifier import PREDICTION, PROBABILITIES, PROBABILITY
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.tables import TextTable
from pipelines.cli import logger

FORMATS = (".jsonl", ".csv", ".parquet")
SEPARATOR = "|"
"""Between several labels in one field of a csv file, unless the training files had another."""
_MANIFEST = "manifest.json"
_KEYS = {"input", "run", "chunk_rows"}


@dataclass(frozen=True)
class PredictedParts:
    """Predictions by chunks of rows, each written whole or not at all.

    Attributes:
        folder: where they lie.
        chunk_rows: rows of a chunk.
        first: the first row that was missing when the folder was opened.
    """

    folder: Path
    chunk_rows: int
    first: int

    @classmethod
    def open(
        cls,
        output: Path,
        run: RunDir,
        source: Path,
        settings: Mapping[str, Any],
        chunk_rows: int,
    ) -> "PredictedParts":
        """Go on with the parts of an output, or begin anew where they are of other predictions.

        Args:
            output: the file that they will become.
            run: what predicts.
            source: the file of the texts.
            settings: what else decides what is predicted; plain values that JSON can hold.
            chunk_rows: rows of a chunk.

        Raises:
            DataError: a folder of that name holds something else.
        """
        folder = output.with_name(f"{output.name}.parts")
        manifest = {
            "input": digest_of(source),
            "run": digest_of(run.path / MARKER),  # it holds the digests of the model's files
            **settings,
            "chunk_rows": chunk_rows,
        }
        known = _read_manifest(folder)
        if folder.exists() and known is None and any(folder.iterdir()):
            raise DataError(
                f"{folder} is where unfinished predictions are kept, and it holds other files. "
                "Move it away, or choose another output."
            )
        if known is not None and known != manifest:
            logger.info("%s holds parts of other predictions; they are made anew", folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with written_aside(folder / _MANIFEST) as aside:
            aside.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        first = 0
        while _part(folder, first).exists():
            first += chunk_rows
        if first:
            logger.info("%s holds the predictions of %d rows; going on behind them", folder, first)
        return cls(folder, chunk_rows, first)

    def missing(self, num_rows: int) -> Iterator[slice]:
        """Yield the chunks that are not there yet, in the order of the rows."""
        for start in range(self.first, num_rows, self.chunk_rows):
            yield slice(start, min(start + self.chunk_rows, num_rows))

    def write(self, chunk: slice, table: pd.DataFrame) -> None:
        """Write what was predicted of a chunk."""
        with written_aside(_part(self.folder, chunk.start)) as aside:
            table.to_parquet(aside, index=False)

    def read(self) -> pa.Table:
        """Return all predictions, in the order of the rows."""
        files = sorted(self.folder.glob("part-*.parquet"))
        # A chunk of rows without any label has lists of no type; "default" takes the others' type.
        return pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")

    def remove(self) -> None:
        """Delete the parts, which the output now holds."""
        shutil.rmtree(self.folder)


def check_columns(table: TextTable, labels: LabelMap, output: Path, *, probabilities: bool) -> None:
    """Check that the output can hold the input's columns and those that are added.

    Raises:
        DataError: a column bears the name of one that is added, or parquet cannot hold it.
    """
    taken = [name for name in _added(labels, probabilities) if name in table.columns]
    if taken:
        raise DataError(
            f"{table.source} has a column '{taken[0]}' already, and the predictions need one of "
            "that name. Rename it, or leave it out."
        )
    if output.suffix == ".parquet":
        _as_arrays(table.columns)


def write_predictions(
    output: Path,
    table: TextTable,
    predicted: pa.Table,
    labels: LabelMap,
    *,
    separator: str | None,
    probabilities: bool,
) -> None:
    """Write the input's columns and the predictions beside them.

    Args:
        output: a .jsonl, .csv or .parquet file.
        table: the input.
        predicted: of every row.
        labels: of the classifier.
        separator: between several labels in a field of a csv file.
        probabilities: whether every label gets a column.
    """
    columns = dict(table.columns)
    for name in (PREDICTION, PROBABILITY):
        if name in predicted.column_names:
            columns[name] = predicted.column(name).to_pylist()
    if probabilities and labels.names:
        of_labels = zip(*predicted.column(PROBABILITIES).to_pylist(), strict=True)
        columns |= dict(zip(_columns_of(labels), map(list, of_labels), strict=True))
    with written_aside(output) as aside:
        if output.suffix == ".jsonl":
            _write_json_lines(aside, columns)
        elif output.suffix == ".csv":
            _write_csv(aside, columns, separator or SEPARATOR)
        else:
            _write_parquet(aside, columns)


def _added(labels: LabelMap, probabilities: bool) -> list[str]:
    if not labels.names:
        return [PREDICTION]
    return [PREDICTION, PROBABILITY, *(_columns_of(labels) if probabilities else ())]


def _columns_of(labels: LabelMap) -> list[str]:
    return [f"{PROBABILITY}_{name}" for name in labels.names]


def _write_json_lines(path: Path, columns: dict[str, list[Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in zip(*columns.values(), strict=True):
            value = dict(zip(columns, row, strict=True))
            file.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def _write_csv(path: Path, columns: dict[str, list[Any]], separator: str) -> None:
    def field(cell: Any) -> Any:
        return separator.join(map(str, cell)) if isinstance(cell, list | tuple) else cell

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(map(field, row) for row in zip(*columns.values(), strict=True))


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(_as_arrays(columns)), path)


def _as_arrays(columns: dict[str, list[Any]]) -> dict[str, pa.Array]:
    arrays = {}
    for name, cells in columns.items():
        try:
            arrays[name] = pa.array(cells)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"column '{name}' holds values of several types, which parquet cannot hold "
                f"({error}). Write to a .jsonl file instead."
            ) from None
    return arrays


def _part(folder: Path, start: int) -> Path:
    return folder / f"part-{start:012d}.parquet"


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what the parts are of; None where no predictions have been begun."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.keys() >= _KEYS else None
