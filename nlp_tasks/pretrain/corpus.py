"""The texts of a pretraining: read from files of any kind, and a part of them held out."""

import glob
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from idbert.errors import ConfigError, DataError
from idbert.inputs.label_tokens import check_label_probability
from nlp_tasks.cls.examples import ExampleSettings, read_texts
from nlp_tasks.held_out import check_dev_share
from nlp_tasks.pretrain.pairs import TextPairs, read_pairs_of
from nlp_tasks.tables import DELIMITERS, JSON_LINES, PARQUET, decoded_text

logger = logging.getLogger(__name__)

DEV_SHARE = 0.05
LABEL_PROBABILITY = 0.5
TABLES = (*DELIMITERS, *JSON_LINES, *PARQUET)
"""Endings of files that hold columns; any other holds lines of text."""


@dataclass(frozen=True)
class CorpusSettings:
    """The texts to learn from. Labels are looked at only where a column of them is named."""

    train: str = "data/samples/reviews.jsonl"
    """A jsonl, csv, tsv or parquet file, such as nlp_cls reads; or a text file, one document a
    line, or one sentence a line with blank lines between documents. 'texts/*.txt': all of them."""
    dev: str | None = None
    """Texts to validate on. Default: texts of train are held out."""
    dev_share: float | None = None
    """Share of the different training texts that is held out where there is no dev file; 0: none,
    and the last weights are kept. Default: 0.05."""
    split_seed: int = 0
    """Decides which texts are held out, and what is hidden in them."""
    text_columns: tuple[str, ...] = ("text",)
    """The columns that hold texts, each of which is read as a text of its own."""
    pair: bool = False
    """Whether the two text columns are a pair: a model reads them as first and second text."""
    label_column: str | None = None
    """The column of the pairs' labels. The label is one more token behind the pair, which is hidden
    and restored like a word. Pairs without a label, or of a file without this column, help too."""
    label_probability: float | int | None = None
    """Chance of a pair's label to be hidden; where it is seen, it helps to restore words. Default:
    0.5."""
    quotes: bool = True
    """Whether double quotes enclose fields of csv and tsv files; in those of GLUE they do not."""

    def __post_init__(self) -> None:
        self._columns()  # refuses columns that cannot be
        if self.pair:
            ExampleSettings(text_columns=self.text_columns, pair=True)
        elif self.label_column is not None:
            raise ConfigError(
                f"label_column '{self.label_column}' names labels of pairs, and pair is false. Set "
                "pair=true and name two text_columns, or leave it out."
            )
        if self.label_probability is not None:
            if self.label_column is None:
                raise ConfigError(
                    f"label_probability={self.label_probability} cannot act without labels. Name "
                    "their column with label_column, or leave it out."
                )
            check_label_probability(self.label_probability)
        if self.label_column in self.text_columns:
            raise ConfigError(f"column '{self.label_column}' is named as text and as label.")
        check_dev_share(self.dev_share, self.dev)

    @property
    def chance_of_labels(self) -> float | int:
        """Chance of a training pair's label to be hidden."""
        return LABEL_PROBABILITY if self.label_probability is None else self.label_probability

    def _columns(self) -> list[ExampleSettings]:
        ExampleSettings(text_columns=self.text_columns)
        return [ExampleSettings(text_columns=(c,), quotes=self.quotes) for c in self.text_columns]

    def read(self, pattern: str) -> list[str]:
        """Return the documents of one file, or of all that a pattern matches, in their order.

        Empty ones are left out, counted.

        Raises:
            ConfigError: columns are named, and a file has none.
            DataError: there is no such file, it cannot be read, or holds no text.
        """
        documents: list[str] = []
        for file in _files(pattern):
            if file.suffix.lower() in TABLES:
                parts = [read_texts(file, one, allow_empty=True).texts for one in self._columns()]
                found = [text for row in zip(*parts, strict=True) for text in row]
            elif self.text_columns != CorpusSettings.text_columns:
                raise ConfigError(
                    f"text_columns names {', '.join(self.text_columns)}, and {file} is read line "
                    "by line. Leave text_columns out, or name the file .jsonl, .csv or .tsv."
                )
            else:
                found = documents_of(decoded_text(file))
                lines = sum(text.count("\n") + 1 for text in found)
                if lines > LONG_DOCUMENT * len(found):
                    logger.warning(
                        "%s: blank lines part its %d lines into %d documents. Where each line is "
                        "a document of its own, take the blank lines out",
                        file, lines, len(found),
                    )  # fmt: skip
            texts = [text for text in found if text.strip()]
            empty = len(found) - len(texts)
            logger.info("%s: %d texts%s", file, len(texts), f", {empty} empty ones" * (empty > 0))
            documents += texts
        if not documents:
            raise DataError(f"{pattern} holds no text. Give texts to learn from.")
        return documents

    def read_pairs(self, pattern: str, *, needs_labels: bool = True) -> TextPairs:
        """Return the pairs of one file, or of all that a pattern matches, in their order.

        Args:
            pattern: of the files.
            needs_labels: whether one of them must have a label, where label_column is named.

        Raises:
            DataError: there is no such file, it cannot be read, or holds no pair or no label.
        """
        files = _files(pattern)
        return read_pairs_of(
            files,
            self.text_columns,
            self.label_column,
            quotes=self.quotes,
            needs_labels=needs_labels,
        )


Documents = Sequence[str] | TextPairs
"""Texts that stand alone, or pairs."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The texts of a pretraining.

    Attributes:
        train: to learn from.
        dev: to validate on; empty: there are none.
        label_names: of pairs with labels: those of the training pairs; None: there are no labels.
    """

    train: Documents
    dev: Documents
    label_names: list[str] | None = None

    @property
    def training_texts(self) -> Sequence[str]:
        """All texts to learn from, those of pairs one by one."""
        return self.train.texts if isinstance(self.train, TextPairs) else self.train


def read_corpus(settings: CorpusSettings, *, least_held_out: int = 1) -> Corpus:
    """Read all files, and hold out what validates.

    Args:
        settings: where the texts are.
        least_held_out: texts that are held out at least, where any are.

    Raises:
        ConfigError: columns are named of a file that has none.
        DataError: a file cannot be read, or there are too few texts to hold any out.
    """
    if settings.pair:
        return _read_pairs(settings)
    documents = settings.read(settings.train)
    if settings.dev is not None:
        return Corpus(documents, settings.read(settings.dev))
    share = _share(settings)
    if share == 0:
        return Corpus(documents, [])
    return hold_out(documents, share, seed=settings.split_seed, least=least_held_out)


def _read_pairs(settings: CorpusSettings) -> Corpus:
    pairs = settings.read_pairs(settings.train)
    names = None if pairs.labels is None else pairs.names
    if settings.dev is not None:
        dev = settings.read_pairs(settings.dev, needs_labels=False)
        new = sorted(set(dev.names) - set(names or ()))
        if new:
            raise DataError(
                f"{settings.dev} has labels that no training pair has: {', '.join(new[:5])}. Give "
                "training pairs with these labels, or leave them out."
            )
        return Corpus(pairs, dev, names)
    share = _share(settings)
    if share == 0:
        return Corpus(pairs, [], names)
    kept, held_out = held_out_places(pairs.keys, share, seed=settings.split_seed)
    return Corpus(pairs.take(kept), pairs.take(held_out), names)


def _share(settings: CorpusSettings) -> float:
    return DEV_SHARE if settings.dev_share is None else settings.dev_share


def hold_out(documents: Sequence[str], share: float, *, seed: int, least: int = 1) -> Corpus:
    """Hold out a share of the different texts; equal ones come to the same side.

    Args:
        documents: in any order.
        share: of the different ones, above 0.
        seed: the same seed holds out the same texts.
        least: so many are held out at least.

    Raises:
        DataError: fewer than `least` would remain to train on.
    """
    kept, held_out = held_out_places(documents, share, seed=seed, least=least)
    return Corpus([documents[n] for n in kept], [documents[n] for n in held_out])


LONG_DOCUMENT = 1_000
"""Lines of a document, in the mean of a file, that are seldom meant to be one."""


def held_out_places(
    keys: Sequence[Hashable], share: float, *, seed: int, least: int = 1
) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Return the places to train on, and those held out; equal keys come to the same side.

    Args:
        keys: of the texts, or pairs, in any order.
        share: of the different ones, above 0.
        seed: the same seed holds out the same ones.
        least: so many are held out at least.

    Raises:
        DataError: fewer than `least` would remain to train on.
    """
    different = list(dict.fromkeys(keys))
    count = max(least, round(share * len(different)))
    if len(different) - count < least:
        raise DataError(
            f"of {len(different)} different texts, {count} cannot be held out. Give more texts, or "
            "data.dev, or set data.dev_share to 0."
        )
    order = np.random.default_rng(seed).permutation(len(different))
    held_out = {different[place] for place in order[:count]}
    is_out_N = np.fromiter((key in held_out for key in keys), bool, len(keys))
    return np.flatnonzero(~is_out_N), np.flatnonzero(is_out_N)


def documents_of(text: str) -> list[str]:
    """Cut the text of a file into documents: at blank lines, or where there are none, at each line.

    The lines of a document stay apart, as sentences.
    """
    lines = [line.strip() for line in text.strip().split("\n")]
    if all(lines):
        return lines
    documents: list[list[str]] = [[]]
    for line in lines:
        if line:
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(document) for document in documents]


def _files(pattern: str) -> list[Path]:
    """Return the files that a pattern matches; a file that exists is no pattern."""
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    files = sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
    if not files:
        advice = " To read all files of a folder, give 'FOLDER/*'." if path.is_dir() else ""
        raise DataError(f"there is no file '{pattern}'.{advice}")
    return files
