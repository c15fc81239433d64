"""The files that a run was trained on, by which it is noticed that they have changed since."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from idbert import processes
from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.files import digest_of
from idbert.inputs.datasets import DATASETS
from idbert.inputs.formats import open_parts
from idbert.run_dir import MARKER, RunDir
from pipelines.corridor import DataSettings, open_prepared, source_of

DATA_FILES = "data_files.json"
"""The name of the file in a run's folder that holds their sizes and digests."""

Files = Callable[[], Iterable[str]]
"""Returns their names; DataError where they are no longer there."""


def files_of_log(data: DataSettings) -> Files:
    """Return the files of a log; of a prepared one, the file that holds the digests of the rest."""
    return partial(_files_of_log, data)


def _files_of_log(data: DataSettings) -> list[str]:
    if data.source in DATASETS:
        return []
    if open_prepared(data) is not None:
        return [str(Path(data.source) / MARKER)]
    return [part.name for part in open_parts(source_of(data), data.columns())]


def files_named_in(data: Any) -> Files:
    """Return the files that settings name: all strings among them that are names of files."""
    values = [getattr(data, field.name) for field in fields(data)]
    return lambda: [value for value in values if isinstance(value, str) and Path(value).is_file()]


def remember_files(run: RunDir, files: Files) -> None:
    """Write into a run's folder what is going to be trained on; of several processes the writer."""
    processes.by_writer(lambda: run.write_json(DATA_FILES, _digests(files())))


def have_changed(run: RunDir, files: Files) -> bool:
    """Say whether files are not what a run was trained on.

    Files that are no longer there, and those that no digest was kept of, count as unchanged.
    """
    try:
        then = run.read_json(DATA_FILES)
        now = _digests(files())
    except (CheckpointError, DataError, OSError):
        return False
    return bool(now) and bool(then != now)


def refuse_changed(run: RunDir, files: Files) -> None:
    """Refuse to pass a trained run off as trained on files that have changed since.

    Raises:
        ConfigError: they have.
    """
    if processes.by_writer(lambda: have_changed(run, files)):
        raise ConfigError(
            f"{run.path} is trained, and its data have changed since. Name another folder with "
            "--run to train on them as they are now, or delete this one."
        )


def _digests(names: Iterable[str]) -> dict[str, Any]:
    return {name: digest_of(Path(name)) for name in names}
