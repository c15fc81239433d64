"""python -m pipelines.rec_prepare: a log of any size, made ready for training in little memory."""

import shutil
from dataclasses import dataclass, field
from typing import Any, Literal

from idbert.errors import ConfigError
from idbert.inputs.cuts import SplitSettings
from idbert.inputs.formats import open_parts
from idbert.inputs.preparation import files_of, prepare_log, sort_here
from idbert.inputs.prepared_log import FILES, PreparedLog
from idbert.inputs.ray_sorting import RaySort, RaySortSettings
from idbert.run_dir import RunDir
from pipelines.cli import logger, run_command, stage
from pipelines.corridor import (
    PREPARED,
    DataSettings,
    RunFolder,
    as_dict,
    open_prepared,
    source_of,
)

WORK = "work"
"""Folder of the stages inside the run; gone when all is done."""


@dataclass(frozen=True)
class PreparedData(DataSettings):
    """The log, and how to read it."""

    memory_limit: str = "2GB"
    """Memory for sorting, with engine=ray that of each worker; about 1 GB comes on top, beside the
    ids. Beyond it, disk is used."""


@dataclass(frozen=True)
class RecPrepareSettings(RunFolder):
    """Which log, and what is held out of it."""

    run: str = "runs/rec_prepare"
    """The folder of the prepared log: made if absent, gone on with if unfinished."""
    data: PreparedData = field(default_factory=PreparedData)
    """The log, and how to read it"""
    split: SplitSettings = field(default_factory=SplitSettings)
    """What is held out for validation and test"""
    engine: Literal["duckdb", "ray"] = "duckdb"
    """Who checks and sorts the events: DuckDB on this machine, or the workers of a Ray cluster, of
    parquet parts that all its machines see. The result is the same, byte for byte."""
    ray: RaySortSettings = field(default_factory=RaySortSettings)
    """The cluster of engine=ray"""

    def __post_init__(self) -> None:
        if self.engine != "ray" and self.ray != RaySortSettings():
            raise ConfigError("the settings of --ray are for --engine ray. Give it, too.")

    def made_of(self) -> dict[str, Any]:
        """Return the settings that say what is made, without those of who makes it."""
        plain = as_dict(self)
        return {name: value for name, value in plain.items() if name not in ("engine", "ray")}


def main(config: RecPrepareSettings) -> None:
    """Prepare a log once, so that training only maps it: rec_pretrain --data.source=RUN.

    Reads, checks, filters, sorts and numbers the events within a memory limit, using the disk. The
    run's folder receives the vocabulary and one file of all users' events; what training reads of
    it (sequences.max_length and so on) is still free. A command that was stopped goes on when it is
    given again, with the stage that it was in.
    """
    run = RunDir.create(config.run, PREPARED, config.made_of())
    if run.is_complete:
        check_unchanged(run, config)
        shutil.rmtree(run.path / WORK, ignore_errors=True)  # of a call that was killed right here
        logger.info("%s is finished.", run.path)
        return
    if open_prepared(config.data) is not None:
        raise ConfigError(f"data.source is {config.data.source}, which is prepared already.")
    with stage("prepare the log"):
        log = prepare_log(
            source_of(config.data),
            run.path,
            config.data,
            config.split,
            work=run.path / WORK,
            sort_events=RaySort(config.ray) if config.engine == "ray" else sort_here,
        )
        run.finish(("config.yaml", *FILES))
    shutil.rmtree(run.path / WORK)
    logger.info(
        "%s is finished: %d interactions of %d users with %d items",
        run.path,
        len(log.events.items),
        len(log.events),
        log.vocabulary.num_items,
    )


def check_unchanged(run: RunDir, config: RecPrepareSettings) -> None:
    """Refuse to pass a finished folder off as made of files that have changed since.

    Raises:
        ConfigError: they have.
        CheckpointError: a file of the folder differs from the one that was written.
    """
    made_of = PreparedLog.open(RunDir.open(run.path, [PREPARED]).path).source
    parts = open_parts(source_of(config.data), config.data.columns())
    if files_of(part.name for part in parts) != made_of:
        raise ConfigError(
            f"{config.data.source} has changed since {run.path} was made of it. Delete that "
            "folder, or name another one with --run."
        )


if __name__ == "__main__":
    run_command(main, RecPrepareSettings)
