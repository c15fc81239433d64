"""python -m pipelines.rec_prepare: a log of any size, made ready for training in little memory."""

import shutil
from dataclasses import dataclass, field

from idbert.errors import ConfigError
from idbert.inputs.formats import open_parts
from idbert.inputs.preparation import files_of, prepare_log
from idbert.inputs.prepared_log import FILES, PreparedLog
from idbert.inputs.splits import SplitSettings
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
    """Memory for sorting; about 1 GB comes on top, beside the ids. Beyond it, disk is used."""


@dataclass(frozen=True)
class RecPrepareSettings(RunFolder):
    """Which log, and what is held out of it."""

    run: str = "runs/rec_prepare"
    """The folder of the prepared log: made if absent, gone on with if unfinished."""
    data: PreparedData = field(default_factory=PreparedData)
    """The log, and how to read it"""
    split: SplitSettings = field(default_factory=SplitSettings)
    """What is held out for validation and test"""


def main(config: RecPrepareSettings) -> None:
    """Prepare a log once, so that training only maps it: rec_pretrain --data.source=RUN.

    Reads, checks, filters, sorts and numbers the events within a memory limit, using the disk. The
    run's folder receives the vocabulary and one file of all users' events; what training reads of
    it (sequences.max_length and so on) is still free. A command that was stopped goes on when it is
    given again, with the stage that it was in.
    """
    run = RunDir.create(config.run, PREPARED, as_dict(config))
    if run.is_complete:
        check_unchanged(run, config)
        logger.info("%s is finished.", run.path)
        return
    if open_prepared(config.data) is not None:
        raise ConfigError(f"data.source is {config.data.source}, which is prepared already.")
    with stage("prepare the log"):
        log = prepare_log(
            source_of(config.data), run.path, config.data, config.split, work=run.path / WORK
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
