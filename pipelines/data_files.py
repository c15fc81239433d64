"""The files that a run was trained on, by which it is noticed that they have changed since."""

import glob
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from idbert import processes
from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.files import digest_of
from idbert.inputs.datasets import DATASETS
from idbert.inputs.formats import open_parts
from idbert.run_dir import MARKER, RunDir
from pipelines.corridor import DataSettings, prepared_run, source_of

DATA_FILES = "data_files.json"
"""The name of the file in a run's folder that holds their sizes and digests."""

_OF_PREPARED = ("vocabulary.parquet", "sequences.arrow")

Files = Callable[[], dict[str, Any]]
"""Returns size and SHA-256 by name, reading each file once; DataError where there is none."""


def files_of_log(data: DataSettings) -> Files:
    """Return the files of a log; of a prepared one, those that hold its events.

    A named data set has none: it does not change.
    """

    def read() -> dict[str, Any]:
        if data.source in DATASETS:
            return {}
        prepared = prepared_run(data)
        if prepared is not None:  # whose digests are known, and are not computed again
            known = prepared.read_json(MARKER)["files"]
            return {str(prepared.path / name): known[name] for name in _OF_PREPARED}
        parts = open_parts(source_of(data), data.columns())
        return {part.name: digest_of(Path(part.name)) for part in parts}

    return cache(read)


def files_named_in(data: Any) -> Files:
    """Return the files that settings name: all strings among them that are names of files."""

    def read() -> dict[str, Any]:
        values = [getattr(data, field.name) for field in fields(data)]
        names = [name for value in values if isinstance(value, str) for name in _names(value)]
        return {name: digest_of(Path(name)) for name in names}

    return cache(read)


def _names(value: str) -> list[str]:
    path = str(Path(value).expanduser()) if value.startswith("~") else value
    if glob.has_magic(path):
        return [name for name in sorted(glob.glob(path, recursive=True)) if Path(name).is_file()]
    return [path] if Path(path).is_file() else []


def remember_files(run: RunDir, files: Files) -> None:
    """Write into a run's folder what is going to be trained on; of several processes the writer."""
    processes.by_writer(lambda: run.write_json(DATA_FILES, files()))


def have_changed(run: RunDir, files: Files) -> bool:
    """Say whether files are not what a run was trained on.

    Files that are no longer there, and those that no digest was kept of, count as unchanged.
    """
    try:
        then, now = run.read_json(DATA_FILES), files()
    except (CheckpointError, ConfigError, DataError, OSError):
        return False
    gone = {name for name in then.keys() - now.keys() if not Path(name).exists()}
    return bool(now) and any(
        then.get(name) != now.get(name) for name in (then.keys() | now.keys()) - gone
    )


def made_of_others(run: RunDir, digest: Callable[[Path], dict[str, Any]] = digest_of) -> bool:
    """Say whether one of the files that a run was trained on is no longer what it was.

    Args:
        run: A run.
        digest: Gives size and SHA-256 of a file; one that remembers saves reading it for each run.
    """
    try:
        then = run.read_json(DATA_FILES)
    except CheckpointError:
        return False
    return any(digest(Path(name)) != known for name, known in then.items() if Path(name).is_file())


def is_same(run: RunDir, files: Files) -> bool | None:
    """Say whether files hold what a run was trained on, whatever they are called.

    None: no digest was kept of them, as of a named data set.
    """
    try:
        then, now = run.read_json(DATA_FILES), files()
    except CheckpointError:
        return None
    if not then or not now:
        return None
    digests = [sorted(digest["sha256"] for digest in of.values()) for of in (then, now)]
    return bool(digests[0] == digests[1])


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
