"""The parts of a matching: pairs to train on, to validate with and to test, read and checked."""

import logging
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from idbert.errors import ConfigError, DataError
from nlp_tasks.cls.labels import labels_of, targets_of
from nlp_tasks.held_out import check_dev_share
from nlp_tasks.match.closure import ClosureSettings, close_transitively, split_by_component
from nlp_tasks.match.from_classes import pairs_of_classes
from nlp_tasks.match.mining import labelled_negatives
from nlp_tasks.match.pair_checks import pair_keys
from nlp_tasks.match.pairs import (
    LABEL_COLUMN,
    NO_ROW,
    PairExamples,
    PairSettings,
    read_pairs,
)
from nlp_tasks.tables import read_table
from nlp_tasks.text_columns import text_column

logger = logging.getLogger(__name__)

DEV_SHARE = 0.1


@dataclass(frozen=True)
class ClassPairSettings:
    """Pairs made of texts that have a class: the same class belongs together, others do not."""

    text_column: str | None = None
    """The column of single texts; their classes stand in label_column. null: files hold pairs."""
    positives_per_text: int = 1
    """Texts of its class that each is paired with."""
    negatives_per_text: int = 1
    """Texts of other classes that each is paired with."""

    def __post_init__(self) -> None:
        for name in ("positives_per_text", "negatives_per_text"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        per_text = (self.positives_per_text, self.negatives_per_text)
        if self.text_column is None and per_text != (1, 1):
            raise ConfigError(
                "positives_per_text and negatives_per_text cannot act on files of pairs. Name the "
                "text_column of labelled texts, or leave them out."
            )


@dataclass(frozen=True)
class PairFiles:
    """Where the pairs are. A base of its own, so that these settings stand before the others."""

    train: str = "data/samples/pairs.jsonl"
    """Pairs to train on: a jsonl, csv, tsv or parquet file; or .txt, one text a line (simcse)."""
    dev: str | None = None
    """Pairs that choose the best weights and the threshold. Default: pairs of train are held
    out."""
    test: str | None = None
    """Pairs for the last evaluation alone."""
    dev_share: float | None = None
    """Share of the training pairs that is held out where there is no dev file, so that no text
    stands on both sides; 0: none, and the last weights are kept. Default: 0.1."""
    split_seed: int = 0
    """Decides which pairs are held out, and how pairs are made of classes."""


@dataclass(frozen=True)
class MatchData(PairSettings, PairFiles):
    """The pairs, and how to read them."""

    classes: ClassPairSettings = field(default_factory=ClassPairSettings)
    """Pairs made of labelled texts"""
    close: bool = False
    """Whether pairs that the training pairs imply are added: A=B and B=C give A=C, A=B and B!=C
    give A!=C."""
    closure: ClosureSettings = field(default_factory=ClosureSettings)
    """What is added, and what becomes of contradictions"""
    labelled_negatives: bool | str = False
    """Whether second texts that are labelled as not belonging to a first one become its hard
    negatives; where pairs have classes, the class that says so, such as contradiction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_dev_share(self.dev_share, self.dev)
        if not self.close and self.closure != ClosureSettings():
            raise ConfigError("closure cannot act without close=true. Set it, or leave it out.")
        if self.classes.text_column is not None:
            plain = {
                field.name: getattr(PairSettings(), field.name) for field in fields(PairSettings)
            }
            own = [name for name in plain if name not in ("label_column", "quotes")]
            changed = [name for name in own if getattr(self, name) != plain[name]]
            if changed or self.label_column is None:
                raise ConfigError(
                    f"{changed[0] if changed else 'label_column=null'} cannot act on pairs that "
                    "are made of classes. Leave it out."
                )
            if self.close:
                raise ConfigError(
                    "close=true cannot act on pairs that are made of classes, which say it all."
                )


@dataclass(frozen=True, eq=False)
class MatchParts:
    """All pairs of a run, read and checked.

    Attributes:
        train: to train on, with what they imply and with hard negatives, if asked for.
        evaluated: by the name of the part, "validation" and "test", as far as they are there.
    """

    train: PairExamples
    evaluated: dict[str, PairExamples]

    @property
    def validation(self) -> PairExamples | None:
        """The pairs that choose the best weights; None: the last ones are kept."""
        return self.evaluated.get("validation")


def read_match_parts(data: MatchData) -> MatchParts:
    """Read all files, hold out what validates, and add to the training pairs what is asked for.

    Raises:
        ConfigError: a setting cannot act on these pairs.
        DataError: a file cannot be read, or has wrong rows.
    """
    if data.classes.text_column is not None:
        train, evaluated = _parts_of_classes(data)
    else:
        train, evaluated = _parts_of_pairs(data)
    _warn_of_leaks(train, evaluated)
    if data.close:
        train, closure = close_transitively(train, data.closure, seed=data.split_seed)
        logger.info(
            "closure: %s pairs added that belong together and %s that do not; %s left out",
            f"{closure.implied_positives:,}",
            f"{closure.implied_negatives:,}",
            f"{len(closure.left_out):,}",
        )
        train = _without_implied_leaks(train, evaluated)
    if data.labelled_negatives:
        name = data.labelled_negatives if isinstance(data.labelled_negatives, str) else None
        found = labelled_negatives(train, name)
        given = train.negatives or [[] for _ in found]
        both = [list(dict.fromkeys([*a, *b])) for a, b in zip(given, found, strict=True)]
        train = replace(train, negatives=both)
    sizes = {"training": train} | evaluated
    logger.info(
        "%s; of kind %s",
        ", ".join(f"{len(part):,} pairs of {name}" for name, part in sizes.items()),
        train.kind,
    )
    return MatchParts(train, evaluated)


def _parts_of_pairs(data: MatchData) -> tuple[PairExamples, dict[str, PairExamples]]:
    settings = PairSettings(
        **{field.name: getattr(data, field.name) for field in fields(PairSettings)}
    )
    train = read_pairs(data.train, settings)
    evaluated = {}
    for name, path in (("validation", data.dev), ("test", data.test)):
        if path is not None:
            evaluated[name] = _read_alike(path, settings, train)
    share = DEV_SHARE if data.dev_share is None else data.dev_share
    if "validation" not in evaluated and share and _can_be_held_out(train, data):
        train, held_out = split_by_component(train, share, seed=data.split_seed)
        evaluated = {"validation": held_out} | evaluated
    return train, evaluated


def _read_alike(path: str, settings: PairSettings, train: PairExamples) -> PairExamples:
    """Read other pairs as the training pairs were; where those have no labels, these may."""
    settings = replace(settings, negatives_column=None)  # nothing learns from these
    if train.kind == "none":
        return read_pairs(path, _with_labels(path, settings))
    names = train.names if train.kind == "class" else None
    return read_pairs(path, train.resolved(settings), names=names)


def _with_labels(path: str, settings: PairSettings) -> PairSettings:
    """Let a file have second texts and labels, in the usual columns if the settings name none."""
    if Path(path).suffix.lower() == ".txt":
        return settings
    columns = read_table(path, quotes=settings.quotes).columns
    usual = {"second_column": PairSettings.second_column, "label_column": LABEL_COLUMN}
    named = {
        name: getattr(settings, name) or (column if column in columns else None)
        for name, column in usual.items()
    }
    if named["label_column"] == LABEL_COLUMN and LABEL_COLUMN not in columns:
        named["label_column"] = None  # what was never named need not be there
    return replace(settings, kind="auto", **named)


def _can_be_held_out(train: PairExamples, data: MatchData) -> bool:
    is_alone = train.kind == "none" and train.firsts == train.seconds
    if is_alone and data.dev_share:
        raise ConfigError(
            f"dev_share={data.dev_share} cannot act on {train.source}: texts alone validate "
            "nothing. Give labelled pairs as data.dev, or leave dev_share out."
        )
    return not is_alone


def _parts_of_classes(data: MatchData) -> tuple[PairExamples, dict[str, PairExamples]]:
    parts = {"training": _labelled_texts(data.train, data)}
    share = DEV_SHARE if data.dev_share is None else data.dev_share
    if data.dev is None and share:
        is_out_N = _held_out_of_classes(*parts["training"], share, data.split_seed)
        if not is_out_N.any() or is_out_N.all():
            raise DataError(f"{data.train} has too few texts to hold some out. Give data.dev.")
    for name, path in (("validation", data.dev), ("test", data.test)):
        if path is not None:
            parts[name] = _labelled_texts(path, data)
    rows = {name: np.arange(len(texts)) for name, (texts, _) in parts.items()}
    if data.dev is None and share:
        parts["validation"] = parts["training"]
        rows |= {"training": np.flatnonzero(~is_out_N), "validation": np.flatnonzero(is_out_N)}
    made = {}
    for name in ("training", "validation", "test"):
        if name in parts:
            texts, labels = ([column[row] for row in rows[name]] for column in parts[name])
            pairs = pairs_of_classes(
                texts,
                labels,
                positives_per_text=data.classes.positives_per_text,
                negatives_per_text=data.classes.negatives_per_text,
                seed=data.split_seed,
                source=f"pairs of {name}",
            )
            made[name] = replace(pairs, rows=rows[name][pairs.rows])
    return made.pop("training"), made


def _held_out_of_classes(
    texts: list[str], labels: list[str], share: float, seed: int
) -> Bool[np.ndarray, "N"]:
    """Hold out a share of each large class's texts, and that share of the small classes, whole.

    So every class that is cut keeps two texts on either side at least, which can be a pair; and
    there are two classes at least, which pairs that do not belong together need.
    """
    first = dict(zip(reversed(texts), reversed(labels), strict=True))  # a text's first label
    texts_of: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        texts_of.setdefault(first[text], []).append(text)
    rng = np.random.default_rng(seed)
    held_out: set[str] = set()
    small = []
    for own in texts_of.values():
        count = round(share * len(own))
        if 2 <= count <= len(own) - 2:
            held_out.update(own[place] for place in rng.permutation(len(own))[:count])
        else:
            small.append(own)
    wanted, num_classes = share * sum(map(len, small)), len(texts_of) - len(small)
    for place in rng.permutation(len(small)).tolist():
        if wanted < 1 and num_classes > 1:
            break
        held_out.update(small[place])
        wanted, num_classes = wanted - len(small[place]), num_classes + 1
    return np.fromiter((text in held_out for text in texts), bool, len(texts))


def _labelled_texts(path: str, data: MatchData) -> tuple[list[str], list[str]]:
    table = read_table(path, quotes=data.quotes)
    texts = text_column(table, str(data.classes.text_column), "classes.text_column")
    column = str(data.label_column)
    table.column(column, "label_column")
    labels = labels_of(table, column, "single", None)
    places = targets_of(table, column, labels, None)
    return texts, [labels.names[place] for place in places.tolist()]


def _warn_of_leaks(train: PairExamples, evaluated: dict[str, PairExamples]) -> None:
    """Say how many pairs of another part stand among the training pairs too."""
    for name, part in evaluated.items():
        leaked = int(_stands_in(part, train).sum())
        if leaked:
            logger.warning(
                "%s of %s pairs of the %s part stand in the training part too",
                f"{leaked:,}",
                f"{len(part):,}",
                name,
            )


def _without_implied_leaks(train: PairExamples, evaluated: dict[str, PairExamples]) -> PairExamples:
    """Leave out implied pairs that stand in another part, whose answers they would give away."""
    leaked_N = np.zeros(len(train), bool)
    for part in evaluated.values():
        leaked_N |= _stands_in(train, part)
    leaked_N &= train.rows == NO_ROW
    if not leaked_N.any():
        return train
    logger.info(
        "closure: %s implied pairs stand in another part, and are left out",
        f"{int(leaked_N.sum()):,}",
    )
    return train.take(np.flatnonzero(~leaked_N))


def _stands_in(pairs: PairExamples, others: PairExamples) -> Bool[np.ndarray, "_"]:
    """Say of each pair whether it stands among others, whichever way round."""
    keys = pair_keys([*pairs.firsts, *others.firsts], [*pairs.seconds, *others.seconds])
    return np.isin(keys[: len(pairs)], keys[len(pairs) :])
