"""What the commands share: the settings of a run, its log, and its titles."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.datasets import DATASETS, NamedDataset, named_dataset, read_items
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.sequences import SequenceSettings, build_sequences
from idbert.inputs.splits import HeldOut, SplitSettings
from idbert.inputs.vocabulary import Vocabulary
from idbert.run_dir import RunDir
from idbert.tables import ITEM, TITLE, Interactions
from idbert.training.validation import Validation
from pipelines.cli import settings_from

STAGES = ("rec_pretrain", "rec_finetune")
"""The commands whose runs hold an item model."""

WHOLE = SequenceSettings(max_length=None, min_length=0)
"""Histories as they are: all users, all events."""


@dataclass(frozen=True)
class LogSource:
    """Where the log is. A base of its own, so that these settings stand before the others."""

    source: str = "ml-100k"
    """A named data set (ml-100k), or a CSV, TSV or parquet file, a folder of them, or a glob."""
    items: str | None = None
    """A table of item_id and title, for the report and the printed recommendations."""


@dataclass(frozen=True)
class DataSettings(InteractionSettings, LogSource):
    """The log, and how to read it."""


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

    batches: BatchSettings = field(default_factory=BatchSettings)
    """Length buckets under a token budget"""


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
    try:
        return settings_from(
            LogSettings, {name: config[name] for name in ("data", "split", "sequences")}
        )
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{run.config} is not the config of a run: {error}") from None


def read_log(data: DataSettings) -> Interactions:
    """Read the log that `data` names."""
    named = _named(data)
    return read_interactions(named.interactions if named else data.source, data)


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
    items = read_items(path)
    ids = items[ITEM] if pa.types.is_integer(id_type) else items[ITEM].astype(str)
    return dict(zip(ids.tolist(), items[TITLE].astype(str).tolist(), strict=True))


def held_out(part: HeldOut, vocabulary: Vocabulary, max_length: int | None) -> Validation:
    """Turn a withheld part into whole histories and target rows, user by user.

    Args:
        part: of a split log.
        vocabulary: of the same log.
        max_length: the newest events of a history that a model reads.
    """
    histories = build_sequences(part.histories, vocabulary, WHOLE)
    targets_U = vocabulary.rows(part.targets.column(ITEM))
    return Validation(histories, targets_U, max_length=max_length)


def _named(data: DataSettings) -> NamedDataset | None:
    return named_dataset(data.source) if data.source in DATASETS else None


def _with_lists(value: Any) -> Any:
    """Return nested values with lists for tuples, which YAML cannot hold."""
    if isinstance(value, dict):
        return {key: _with_lists(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_with_lists(entry) for entry in value]
    return value
