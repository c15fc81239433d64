"""What the stages of the corridor share: the settings of a run, its log, its titles, its ending."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.datasets import DATASETS, NamedDataset, named_dataset, read_items
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.sequences import SequenceSettings
from idbert.inputs.splits import SplitSettings
from idbert.run_dir import RunDir
from idbert.tables import ITEM, TITLE, Interactions
from idbert.training.arguments import TrainingSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSettings(InteractionSettings):
    """The log, and how to read it."""

    source: str = "ml-100k"
    """A named data set (ml-100k), or a CSV, TSV or parquet file, a folder of them, or a glob."""
    items: str | None = None
    """A table of item_id and title, for the report and the printed recommendations."""


@dataclass(frozen=True)
class CorridorSettings:
    """The settings that pretraining and fine-tuning have in common."""

    run: str
    """The run's folder: made if absent, resumed if unfinished."""
    data: DataSettings = field(default_factory=DataSettings)
    """The log, and how to read it"""
    split: SplitSettings = field(default_factory=SplitSettings)
    """What is held out for validation and test"""
    sequences: SequenceSettings = field(default_factory=SequenceSettings)
    """One sequence a user"""
    batches: BatchSettings = field(default_factory=BatchSettings)
    """Length buckets under a token budget"""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """Optimizer, schedule, checkpoints, early stopping"""


def as_dict(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain YAML values, without the run's own folder."""
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_lists(dataclasses.asdict(settings))))
    plain.pop("run", None)
    return plain


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists(entry) for entry in value]
    return value


def read_log(data: DataSettings) -> Interactions:
    """Read the log that `data` names."""
    return read_interactions(_named(data).interactions if _named(data) else data.source, data)


def read_titles(data: DataSettings) -> dict[Any, str]:
    """Return the title of each item, or an empty dict where no table of items is known."""
    named = _named(data)
    path = data.items or (named.items if named else None)
    if path is None:
        return {}
    items = read_items(path)
    return dict(zip(items[ITEM].tolist(), items[TITLE].astype(str), strict=True))


def _named(data: DataSettings) -> NamedDataset | None:
    return named_dataset(data.source) if data.source in DATASETS else None
