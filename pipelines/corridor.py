"""What the commands share: the settings of a run, its log, and its titles."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idbert import processes
from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.attributes import attribute_rows
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.cuts import SplitSettings, TimeSplitSettings
from idbert.inputs.datasets import DATASETS, NamedDataset, named_dataset, read_items
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.popularity import PopularitySettings
from idbert.inputs.prepared_log import PreparedLog
from idbert.inputs.sequences import SequenceSettings
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import BERT_MAX_LENGTH, EncoderSettings
from idbert.run_dir import MARKER, RunDir
from idbert.tables import ITEM, TITLE, Interactions
from idbert.training.arguments import TrainingSettings
from pipelines.cli import logger, settings_from

STAGES = ("rec_pretrain", "rec_finetune")
"""The commands whose runs hold an item model."""

PREPARED = "rec_prepare"
"""The command whose folders are logs."""

EXPORTED = "rec_export"
"""The command whose folders are vectors."""

WHOLE = SequenceSettings(max_length=None, min_length=0)
"""Histories as they are: all users, all events."""


@dataclass(frozen=True)
class LogSource:
    """Where the log is. A base of its own, so that these settings stand before the others."""

    source: str = "ml-100k"
    """A named data set (ml-100k), a CSV, TSV or parquet file, a folder of them, a glob, or the
    folder that rec_prepare wrote."""
    items: str | None = None
    """A table of items and their titles, for the report and the printed recommendations: columns
    title, and item_id or what data.item_column says."""
    attributes: tuple[str, ...] = ()
    """Columns of that table whose values (genres, a category) get vectors that are added to those
    of the items: '[genres]'. Lists, or strings that are split; kept with the model."""
    attribute_separator: str = "|"
    """What stands between several attributes in one string."""


@dataclass(frozen=True)
class DataSettings(InteractionSettings, LogSource):
    """The log, and how to read it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attribute_separator:
            raise ConfigError("attribute_separator is empty. Leave it out for '|'.")
        if not self.attributes and self.attribute_separator != LogSource.attribute_separator:
            raise ConfigError("attribute_separator cannot act without attributes. Leave it out.")


@dataclass(frozen=True)
class RunFolder:
    """Where a run is kept; a base of its own, like `LogSource`."""

    run: str
    """The run's folder: made if absent, resumed if unfinished."""
    plugins: tuple[str, ...] = ()
    """Modules to import first, because they register parts: '[my_package.my_block]'."""


@dataclass(frozen=True)
class LogSettings:
    """Which events are read, trained on, and held out."""

    data: DataSettings = field(default_factory=DataSettings)
    """The log, and how to read it"""
    split: SplitSettings = field(default_factory=SplitSettings)
    """What is held out for validation and test"""
    sequences: SequenceSettings = field(default_factory=SequenceSettings)
    """One sequence a user"""


@dataclass(frozen=True)
class CorridorSettings(LogSettings, RunFolder):
    """The settings that pretraining and fine-tuning have in common."""

    filter_seen: bool = True
    """Whether the best epoch is chosen, and the run evaluated, with the items of a history left out
    of what is recommended. false measures repeats too: groceries, songs."""
    popularity: PopularitySettings = field(default_factory=PopularitySettings)
    """How scores follow what has been popular lately"""
    batches: BatchSettings = field(default_factory=BatchSettings)
    """Length buckets under a token budget"""


Corridor = TypeVar("Corridor", bound=CorridorSettings)


def check_windows(sequences: SequenceSettings, model: EncoderSettings, *, is_causal: bool) -> None:
    """Check that the model reads the windows whole, so that no event is lost between them.

    Raises:
        ConfigError: it does not.
    """
    if sequences.window_stride is None or sequences.max_length is None or model.kind == "nezha":
        return
    positions = model.max_length or BERT_MAX_LENGTH
    # A next-item model reads all events of a window but the last, which is only a target.
    if sequences.max_length > positions + is_causal:
        raise ConfigError(
            f"sequences.window_stride cuts windows of {sequences.max_length} events, and the model "
            f"reads {positions + is_causal}: the rest would be lost. Lower sequences.max_length, "
            "or raise model.max_length."
        )


def as_dict(settings: Any) -> dict[str, Any]:
    """Return settings as plain YAML values, without the run's own folder."""
    plain = dataclasses.asdict(settings)
    plain.pop("run", None)
    return _with_lists(plain)


def log_settings_of(run: RunDir) -> LogSettings:
    """Return the settings by which a run read its log.

    Raises:
        CheckpointError: config.yaml does not hold them.
    """
    config = run.read_config()
    names = ("data", "split") if run.stage == PREPARED else ("data", "split", "sequences")
    try:
        return settings_from(LogSettings, {name: config[name] for name in names})
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{run.config} is not the config of a run: {error}") from None


def filters_seen(run: RunDir) -> bool:
    """Say whether a run was chosen and evaluated with the items of a history left out."""
    return bool(run.read_config().get("filter_seen", True))


def read_log(data: DataSettings) -> Interactions:
    """Read the log that `data` names; a prepared one becomes the table that it was made of."""
    prepared = open_prepared(data)
    if prepared is not None:
        return prepared.interactions()
    return read_interactions(source_of(data), data)


def source_of(data: DataSettings) -> str | Path:
    """Return the file, folder or pattern that `data` names."""
    named = _named(data)
    return named.interactions if named else data.source


def open_prepared(data: DataSettings) -> PreparedLog | None:
    """Map the prepared log that `data` names; None if it names another source.

    Raises:
        CheckpointError: the preparation has not finished, or a file differs from the one it wrote.
    """
    run = prepared_run(data)
    return PreparedLog.open(RunDir.open(run.path, [PREPARED]).path) if run else None


def as_prepared(config: Corridor) -> Corridor:
    """Return settings in which a prepared log's own stand: how it was read, and how it is split.

    Raises:
        ConfigError: a setting asks for what the preparation has decided otherwise.
        CheckpointError: see `open_prepared`.
    """
    run = prepared_run(config.data)
    if run is None:
        return config
    there = log_settings_of(run)
    usual = LogSettings()
    differing = {
        f"data.{field.name}": getattr(there.data, field.name)
        for field in dataclasses.fields(InteractionSettings)
        if field.name != "memory_limit"
        and getattr(config.data, field.name)
        not in (getattr(usual.data, field.name), getattr(there.data, field.name))
    }
    if config.split.train_until != there.split.train_until:
        # Never taken over in silence: with "test" or "end" what is evaluated on is trained on.
        raise ConfigError(
            f"{config.data.source} was prepared with split.train_until={there.split.train_until}, "
            f"and {config.split.train_until} is asked for. Give --split.train_until "
            f"{there.split.train_until}, or prepare the log with "
            f"{config.split.train_until} in another folder."
        )
    differing |= _differing(config.split, there.split)
    if differing:
        named = "; ".join(f"{name} ({value!r} there)" for name, value in differing.items())
        raise ConfigError(
            f"{config.data.source} was prepared with other settings, which cannot be changed now: "
            f"{named}. Leave them out, or prepare the log with them in another folder."
        )
    named_items = getattr(_named(there.data), "items", None)
    data = dataclasses.replace(
        there.data,
        source=config.data.source,
        items=config.data.items or there.data.items or (named_items and str(named_items)),
        attributes=config.data.attributes or there.data.attributes,
        attribute_separator=(
            config.data if config.data.attributes else there.data
        ).attribute_separator,
        memory_limit=config.data.memory_limit,
    )
    return dataclasses.replace(config, data=data, split=there.split)


def _differing(wanted: SplitSettings, there: SplitSettings) -> dict[str, Any]:
    """Return, by its name, each setting of a split that is asked for and was prepared otherwise."""
    if wanted == SplitSettings(train_until=there.train_until):  # nothing else is asked for
        return {}
    times = {
        f"split.time.{field.name}": getattr(there.time, field.name)
        for field in dataclasses.fields(TimeSplitSettings)
        if getattr(wanted.time, field.name) != getattr(there.time, field.name)
    }
    return times | {
        f"split.{name}": getattr(there, name)
        for name in ("name", "targets")
        if getattr(wanted, name) != getattr(there, name)
    }


def check_choosing(split: SplitSettings, training: TrainingSettings) -> None:
    """Check that no setting waits for a validation part that is trained on.

    Raises:
        ConfigError: one does.
    """
    if not split.has_validation and training.patience is not None:
        raise ConfigError(
            f"training.patience={training.patience} cannot act with "
            f"split.train_until={split.train_until}, which leaves no validation part to stop by. "
            "Set training.patience=null, and as training.epochs the number that was best with "
            "train_until=validation."
        )


def read_titles(data: DataSettings, id_type: pa.DataType) -> dict[Any, str]:
    """Return the title of each item; an empty dict where no table of items is known.

    Args:
        data: names the table.
        id_type: of the item ids in the log, which the table's are brought to.
    """
    named = _named(data)
    path = data.items or (named.items if named else None)
    if path is None:
        return {}
    items = read_items(path, item_column=data.item_column, needs_title=not data.attributes)
    if TITLE not in items:
        return {}
    ids = items[ITEM] if pa.types.is_integer(id_type) else items[ITEM].astype(str)
    return dict(zip(ids.tolist(), items[TITLE].astype(str).tolist(), strict=True))


def check_titles(data: DataSettings, vocabulary: Vocabulary) -> None:
    """Read the titles once before the training, which would be lost if they cannot be.

    Raises:
        DataError: the table of items cannot be read, or holds a title of no item of the catalogue.
    """
    titles = read_titles(data, vocabulary.ids.type)
    named = _named(data)
    path = data.items or (named.items if named else None)
    if path is None or (not titles and data.attributes):
        return
    try:
        titled = pa.array(list(titles), vocabulary.ids.type)
        num_found = pc.is_in(vocabulary.ids, value_set=titled).true_count
    except pa.ArrowException:  # the table's ids are of another type, or a number is missing
        num_found = sum(item in titles for item in vocabulary.ids.to_pylist())
    if num_found == 0:
        raise DataError(
            f"{path} has a title of none of the {vocabulary.num_items} items of the catalogue. "
            "Check that its item ids are written as the log's are (leading zeros, say), or leave "
            "out data.items."
        )
    logger.info("%s: titles of %d of %d items", path, num_found, vocabulary.num_items)


def read_attributes(data: DataSettings, vocabulary: Vocabulary) -> np.ndarray | None:
    """Return the numbers of the items' attributes; None where the settings name none.

    Raises:
        ConfigError: there is no table of items, or no item of the catalogue has an attribute.
        DataError: a column is missing.
    """
    if not data.attributes:
        return None
    named = _named(data)
    path = data.items or (named.items if named else None)
    if path is None:
        raise ConfigError(
            f"data.attributes names {', '.join(data.attributes)}, and there is no table of items. "
            "Give it by data.items."
        )
    items = read_items(path, item_column=data.item_column, needs_title=False)
    return attribute_rows(items, data.attributes, vocabulary, data.attribute_separator)


def prepared_run(data: DataSettings) -> RunDir | None:
    """Return the folder of the prepared log that `data` names; None if it names another source.

    Raises:
        ConfigError: it names a run of another command.
        CheckpointError: the preparation has not finished.
    """
    if data.source in DATASETS or not (Path(data.source) / MARKER).is_file():
        return None
    run = RunDir(Path(data.source))
    if run.stage != PREPARED:
        raise ConfigError(
            f"data.source is {data.source}, a run of {run.stage}. Name a log, or the folder that "
            f"{PREPARED} wrote."
        )
    if not run.is_complete:
        raise CheckpointError(
            f"{run.path}: the preparation has not finished. Give the same {PREPARED} command "
            "again; finished stages are not done again."
        )
    return run


def _named(data: DataSettings) -> NamedDataset | None:
    if data.source not in DATASETS:
        return None
    with processes.writer_first():  # which may fetch it
        return named_dataset(data.source)


def _with_lists(value: Any) -> Any:
    """Return nested values with lists for tuples, which YAML cannot hold."""
    if isinstance(value, dict):
        return {key: _with_lists(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_lists(entry) for entry in value]
    return value
