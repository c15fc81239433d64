"""The parts of a classification's data: folds to train on, and rows to evaluate on."""

import logging
from dataclasses import dataclass, field

from idbert.errors import ConfigError
from nlp_tasks.cls.examples import Examples, ExampleSettings, read_examples
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.sampling import folds as make_folds
from nlp_tasks.cls.sampling import hold_out
from nlp_tasks.held_out import check_dev_share

logger = logging.getLogger(__name__)

DEV_SHARE = 0.1


@dataclass(frozen=True)
class TextFiles:
    """Where the texts are. A base of its own, so that these settings stand before the others."""

    train: str = "data/samples/reviews.jsonl"
    """Labelled texts to train on: a jsonl, csv, tsv or parquet file."""
    dev: str | None = None
    """Labelled texts that choose the best weights. Default: rows of train are held out."""
    test: str | None = None
    """Labelled texts for the last evaluation alone."""
    dev_share: float | None = None
    """Share of the training texts that is held out where there is no dev file; 0: none, and the
    last weights are kept. Default: 0.1."""
    folds: int = 1
    """Above 1: so many models are trained, each without another part of the training texts, which
    it is validated on; their predictions are averaged."""
    split_seed: int = 0
    """Decides which rows are held out. Runs of other training seeds hold out the same."""


@dataclass(frozen=True)
class ClassificationData(ExampleSettings, TextFiles):
    """The labelled texts, and how to read them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 1:
            raise ConfigError(f"folds is {self.folds}; it must be at least 1.")
        check_dev_share(self.dev_share, self.dev)
        if self.dev_share is not None and self.folds > 1:
            raise ConfigError(
                f"dev_share={self.dev_share} cannot act with {self.folds} folds, each of which "
                "is held out once. Leave it out."
            )


@dataclass(frozen=True, eq=False)
class Fold:
    """What one model is trained and validated on.

    Attributes:
        name: of the model's folder: "model", or "model-1", "model-2", ...
        train: the rows to train on.
        validation: the rows that choose its best weights; None: the last ones are kept.
    """

    name: str
    train: Examples
    validation: Examples | None


@dataclass(frozen=True, eq=False)
class Parts:
    """All rows of a run, read and checked.

    Attributes:
        labels: what the targets stand for.
        train: all rows of the training file.
        folds: of them; one, where each model sees the same.
        evaluated: rows by the name of their part, for the evaluation by all models together:
            "validation" and "test", as far as they are there. With folds and without a dev file
            each row is validated by the one model that has not seen it.
    """

    labels: LabelMap
    train: Examples
    folds: list[Fold]
    evaluated: dict[str, Examples] = field(default_factory=dict)


def read_parts(data: ClassificationData) -> Parts:
    """Read all files, and hold out what validates.

    Raises:
        DataError: a file cannot be read, a text is empty, a label is missing or unknown.
    """
    train = read_examples(data.train, data)
    assert train.labels is not None
    others = {
        name: read_examples(path, data, train.labels)
        for name, path in (("validation", data.dev), ("test", data.test))
        if path is not None
    }
    if data.folds > 1:
        splits = make_folds(train, data.folds, seed=data.split_seed)
        folds = [
            Fold(f"model-{number}", train.take(kept), train.take(rest))
            for number, (kept, rest) in enumerate(splits, 1)
        ]
    elif data.dev is not None:
        folds = [Fold("model", train, others["validation"])]
    elif data.dev_share == 0:
        folds = [Fold("model", train, None)]
    else:
        share = DEV_SHARE if data.dev_share is None else data.dev_share
        kept, rest = hold_out(train, share, seed=data.split_seed)
        held_out = train.take(rest)
        folds = [Fold("model", train.take(kept), held_out)]
        others = {"validation": held_out} | others
    parts = Parts(train.labels, train, folds, others)
    _log(parts)
    return parts


def _log(parts: Parts) -> None:
    sizes = {"training": len(parts.folds[0].train)}
    sizes |= {name: len(examples) for name, examples in parts.evaluated.items()}
    logger.info(
        "%s; labels of kind %s%s",
        ", ".join(f"{size:,} rows of {name}" for name, size in sizes.items()),
        parts.labels.kind,
        f": {len(parts.labels.names)}" if parts.labels.names else "",
    )
