"""What a search has found: as a file, or printed in words."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from idbert.files import written_aside
from idbert.tables import SCORE
from nlp_tasks.match.texts import TEXT
from pipelines.cli import logger

FORMATS = (".jsonl", ".csv", ".parquet")
SHOWN_GROUPS = 20
"""Queries, texts or clusters that are printed; a file receives all."""
SHOWN_CHARACTERS = 100


def give(
    table: pd.DataFrame, output: str | None, key: str, shown: list[str], named: dict[Any, str]
) -> None:
    """Write what was found, or print its first groups in words.

    Args:
        table: one row a text that was found.
        output: a file of one of FORMATS; None: print.
        key: the column whose values make groups.
        shown: the columns that are printed.
        named: what stands beside a group's key.
    """
    if output is not None:
        path = Path(output)
        with written_aside(path) as aside:
            if path.suffix == ".jsonl":
                table.to_json(aside, orient="records", lines=True, force_ascii=False)
            elif path.suffix == ".csv":
                table.to_csv(aside, index=False)
            else:
                table.to_parquet(aside, index=False)
        logger.info("%d rows in %s", len(table), path)
        return
    groups = table[key].nunique()
    for number, (name, rows) in enumerate(table.groupby(key, sort=False)):
        if number == SHOWN_GROUPS:
            print(f"... and {groups - SHOWN_GROUPS} more; --output FILE writes all.")
            break
        title = f": {named[name]}" if name in named else ""
        print(f"\n{key} {name}{title}")
        formats = {SCORE: "{:.3f}".format, TEXT: _cut}
        kept = [column for column in shown if column in rows]
        print(rows[kept].to_string(index=False, formatters=formats))
    if not groups:
        print("nothing was found.", file=sys.stderr)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"
