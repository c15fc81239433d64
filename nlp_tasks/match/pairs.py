"""Pairs of texts, and what is said of each: same or not, how alike, of which class, or nothing."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64, Integer, Shaped

from idbert.errors import ConfigError, DataError, ShapeError, suggestion
from nlp_tasks.match.pair_checks import contradictory_rows, warn_or_refuse
from nlp_tasks.match.pair_columns import (
    PairKind,
    labels_of_pairs,
    lines_of,
    negatives_of,
)
from nlp_tasks.tables import read_table
from nlp_tasks.text_columns import text_column

__all__ = ["PairExamples", "PairKind", "PairSettings", "read_pairs"]

logger = logging.getLogger(__name__)

Source = str | Path | pd.DataFrame
LABEL_COLUMN = "label"
NO_ROW = -1
"""The row of a pair that stands in no file, but was implied by others."""


@dataclass(frozen=True)
class PairSettings:
    """Which columns hold the two texts and the label, and what is done about doubtful rows."""

    first_column: str = "text_a"
    """The column of the first text."""
    second_column: str | None = "text_b"
    """That of the second; null: each text is a pair with itself, as SimCSE wants it."""
    label_column: str | None = LABEL_COLUMN
    """That of the label; null: the pairs have none, and all belong together."""
    kind: Literal["auto", "binary", "score", "class", "none"] = "auto"
    """binary: 1 or 0, same or not; score: how alike; class: names, such as those of inference;
    none: no labels. auto: 0 and 1 are binary, other numbers scores, words classes."""
    max_score: float | int | None = None
    """What scores are divided by where a cosine is to meet them; null: the largest of the file."""
    negatives_column: str | None = None
    """A column of hard negatives, which do not belong to the first text: lists, or one a row."""
    same_texts: Literal["keep", "leave_out", "refuse"] = "keep"
    """What is done about rows with the same text twice, other than to count them."""
    contradictions: Literal["keep", "leave_out", "refuse"] = "keep"
    """What is done about rows of one pair with different labels, other than to count them."""
    quotes: bool = True
    """Whether double quotes enclose fields of csv and tsv files."""

    def __post_init__(self) -> None:
        columns = (self.first_column, self.second_column, self.label_column, self.negatives_column)
        named = [name for name in columns if name is not None]
        if len(set(named)) < len(named) or "" in named:
            raise ConfigError(f"the columns of a pair differ and have names: {', '.join(named)}.")
        if self.kind == "none" and self.label_column not in (None, LABEL_COLUMN):
            raise ConfigError(
                f"label_column is '{self.label_column}' and kind none reads no labels. Leave one "
                "of them out."
            )
        has_labels = self.kind not in ("auto", "none")
        if has_labels and (self.label_column is None or self.second_column is None):
            which = "label_column" if self.label_column is None else "second_column"
            raise ConfigError(f"kind is {self.kind} and {which} is null. Name the column.")
        if self.max_score is not None:
            if not 0 < self.max_score < float("inf"):
                raise ConfigError(f"max_score is {self.max_score}; give a number above 0, say 5.")
            if self.kind not in ("auto", "score") or not self._may_have_labels:
                raise ConfigError("max_score acts only where kind is score.")
        if self.second_column is None and self.same_texts != "keep":
            raise ConfigError("same_texts cannot act where second_column is null. Leave it out.")
        if not self._may_have_labels and self.contradictions != "keep":
            raise ConfigError("contradictions acts only where pairs have labels. Leave it out.")

    @property
    def _may_have_labels(self) -> bool:
        has_columns = self.label_column is not None and self.second_column is not None
        return has_columns and self.kind != "none"


@dataclass(frozen=True, eq=False, kw_only=True)
class PairExamples:
    """Pairs of texts and their targets.

    Attributes:
        firsts: N first texts.
        seconds: N second texts.
        targets: of kind "binary" Int64[N] zeros and ones; "score" Float32[N] as in the file;
            "class" Int64[N] places in `names`; "none" None: every pair belongs together.
        kind: what the targets are.
        names: of the classes.
        negatives: for each row the texts that do not belong to its first text; None: not given.
        rows: Int64[N] places in the source, from 0; NO_ROW of pairs that do not stand there.
        source: where they are from, for messages.
        max_score: what scores are divided by where a cosine is to meet them.
    """

    firsts: list[str]
    seconds: list[str]
    targets: Shaped[np.ndarray, "N"] | None
    kind: PairKind
    names: tuple[str, ...] = ()
    negatives: list[list[str]] | None = None
    rows: Int64[np.ndarray, "N"]
    source: str = "pairs"
    max_score: float | int = 1.0

    def __post_init__(self) -> None:
        parts = {"seconds": self.seconds, "targets": self.targets, "rows": self.rows}
        for name, part in (parts | {"negatives": self.negatives}).items():
            if part is not None and len(part) != len(self.firsts):
                raise ShapeError(f"{len(self.firsts)} firsts, but {len(part)} {name}.")
        if (self.targets is None) != (self.kind == "none"):
            raise ShapeError(f"pairs of kind {self.kind} {_TARGETS_OF[self.kind]}.")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.firsts)

    def take(self, places: Integer[np.ndarray, "_"] | Sequence[int]) -> "PairExamples":
        """Return the pairs at the given places, in that order; one may occur repeatedly."""
        places = np.asarray(places, dtype=np.int64)
        negatives = self.negatives
        return replace(
            self,
            firsts=[self.firsts[place] for place in places],
            seconds=[self.seconds[place] for place in places],
            targets=None if self.targets is None else self.targets[places],
            negatives=None if negatives is None else [negatives[place] for place in places],
            rows=self.rows[places],
        )

    def positives(self, least: float | int | str | None = None) -> "PairExamples":
        """Return the pairs that belong together, as pairs of kind "none".

        Args:
            least: for scores the smallest that counts; for classes the name that does.

        Raises:
            ConfigError: `least` is missing, or of the wrong kind.
        """
        if self.kind in ("none", "binary"):
            if least is not None:
                raise ConfigError(f"pairs of kind {self.kind} need no '{least}' to be positive.")
            is_positive_N = np.ones(len(self), bool) if self.targets is None else self.targets == 1
        elif self.kind == "score":
            if least is None or isinstance(least, str):
                raise ConfigError("which pairs belong together? Give the least score that does.")
            is_positive_N = np.asarray(self.targets) >= least
        elif least not in self.names:
            raise ConfigError(
                f"which class belongs together? Give one of {', '.join(self.names)}, not "
                f"{least!r}.{suggestion(str(least), self.names)}"
            )
        else:
            is_positive_N = self.targets == self.names.index(str(least))
        chosen = self.take(np.flatnonzero(is_positive_N))
        return replace(chosen, targets=None, kind="none", names=(), max_score=1.0)

    def cosine_targets(self) -> Float32[np.ndarray, "N"]:
        """Return what a cosine should be: 0 or 1, or the score divided by `max_score`.

        Raises:
            ConfigError: classes and unlabelled pairs say nothing of it.
        """
        if self.targets is None or self.kind == "class":
            raise ConfigError(f"pairs of kind {self.kind} do not say what a cosine should be.")
        divisor = np.float32(self.max_score if self.kind == "score" else 1)
        return self.targets.astype(np.float32) / divisor

    def resolved(self, settings: PairSettings) -> PairSettings:
        """Return settings by which other files are read in the same way as these pairs were."""
        max_score = self.max_score if self.kind == "score" else None
        return replace(settings, kind=self.kind, max_score=max_score)


_TARGETS_OF: dict[str, str] = {
    "binary": "need targets of 0 and 1",
    "score": "need targets that are numbers",
    "class": "need targets that are places in names",
    "none": "have no targets",
}


def read_pairs(
    source: Source, settings: PairSettings, *, names: Sequence[str] | None = None
) -> PairExamples:
    """Read pairs of texts.

    Args:
        source: a jsonl, csv, tsv or parquet file, or a DataFrame; or a .txt file of one text a
            line, each of which is a pair with itself.
        settings: which columns to read, and how. Files that belong together are read by
            `train.resolved(settings)`, so that a small one is not taken for another kind.
        names: the classes of the training pairs; the pairs are then of kind "class".

    Raises:
        ConfigError: the settings do not fit the kind of labels.
        DataError: the table cannot be read, a column is missing, a text is empty, a label is
            missing or of another kind; or rows are refused by the settings.
    """
    if names is not None and settings.kind not in ("auto", "class"):
        raise ConfigError(f"kind is {settings.kind}, and names of classes are given.")
    if not isinstance(source, pd.DataFrame) and Path(source).suffix.lower() == ".txt":
        table, first = lines_of(Path(source).expanduser())
        second: str | None = None
    else:
        table = read_table(source, quotes=settings.quotes)
        first, second = settings.first_column, settings.second_column
    firsts = text_column(table, first, "first_column")
    seconds = firsts if second is None else text_column(table, second, "second_column")
    if second is None or settings.label_column is None:
        labels = labels_of_pairs(table, "", "none", names)
    else:
        labels = labels_of_pairs(table, settings.label_column, settings.kind, names)
    if settings.max_score is not None and labels.kind != "score":
        raise ConfigError(
            f"max_score acts only on scores, and {table.source} holds labels of kind "
            f"{labels.kind}. Leave it out."
        )
    examples = PairExamples(
        firsts=list(firsts),
        seconds=list(seconds),
        targets=labels.targets,
        kind=labels.kind,
        names=labels.names,
        negatives=negatives_of(table, settings.negatives_column, firsts, seconds),
        rows=np.arange(len(table), dtype=np.int64),
        source=table.source,
        max_score=_max_score(labels.targets, labels.kind, settings.max_score, table.where),
    )
    logger.info("%s: %s pairs of kind %s", table.source, f"{len(table):,}", labels.kind)
    keep_N = np.ones(len(table), bool)
    if second is not None:
        same = [row for row, (a, b) in enumerate(zip(firsts, seconds, strict=True)) if a == b]
        what = "hold the same text twice"
        keep_N[warn_or_refuse(table, same, what, "same_texts", settings.same_texts)] = False
    if labels.targets is not None:
        rows = contradictory_rows(firsts, seconds, labels.targets, ordered=labels.kind == "class")
        what = "give one pair different labels"
        choice = settings.contradictions
        keep_N[warn_or_refuse(table, rows, what, "contradictions", choice)] = False
    if keep_N.all():
        return examples
    if not keep_N.any():
        raise DataError(f"{table.source}: all {len(table):,} rows were left out by the settings.")
    return examples.take(np.flatnonzero(keep_N))


def _max_score(
    targets: np.ndarray | None,
    kind: PairKind,
    wanted: float | int | None,
    where: Callable[[Sequence[int]], str],
) -> float:
    """Return what scores are divided by: as wanted, or the largest that there is."""
    if targets is None or kind != "score":
        return 1.0
    sizes_N = np.abs(targets.astype(np.float64))
    if wanted is None:
        return float(sizes_N.max()) or 1.0
    above = np.flatnonzero(sizes_N > np.float32(wanted)).tolist()
    if above:
        raise DataError(
            f"a score is {targets[above[0]]:g}, above max_score {wanted:g} ({where(above)}). "
            "Raise max_score, or mend these rows."
        )
    return float(wanted)
