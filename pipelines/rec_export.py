"""python -m pipelines.rec_export: the vectors of items or users as parquet parts."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from idbert.errors import ConfigError
from idbert.inputs.formats import open_parts
from idbert.inputs.preparation import files_of
from idbert.inputs.vocabulary import Vocabulary
from idbert.retrieval.vector_export import (
    PART_SIZE,
    ItemSource,
    RayExportSettings,
    UserSource,
    VectorExport,
    export_vectors,
)
from idbert.retrieval.vectors import Layer
from idbert.run_dir import RunDir
from pipelines.cli import PLUGINS, logger, naming_plugins_of, run_command, stage
from pipelines.corridor import (
    EXPORTED,
    STAGES,
    DataSettings,
    log_settings_of,
    open_prepared,
    source_of,
)
from pipelines.histories import read_histories_of


@dataclass(frozen=True)
class RecExportSettings:
    """Which vectors, made by whom, and where to."""

    run: str = "runs/rec_finetune"
    """The finished run whose model makes the vectors."""
    what: Literal["items", "users"] = "items"
    """Whose vectors. The inner product of a user's and an item's is the model's score."""
    output: str | None = None
    """The folder of the parts: made if absent, gone on with if unfinished. Default: the run's
    folder item_vectors or user_vectors."""
    histories: str | None = None
    """Events to make users' vectors of, read as the run's log was: a file, a folder, a glob, or
    the folder that rec_prepare wrote, which is only mapped. Default: the run's log."""
    behaviour: str | None = None
    """Which kind of event users' vectors are to predict. Default: the most frequent one."""
    at: str | None = None
    """The moment for which users' vectors are made, for a model that reads it: an ISO date, or
    seconds since 1970-01-01 UTC."""
    layer: Layer = None
    """In place of the vectors that are searched, those that a layer makes of each item alone: 0 the
    embedding output, 1 the first layer, -1 the last, or fused."""
    part_size: int = PART_SIZE
    """Items or users of a part."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model computes; with cuda each worker takes a GPU."""
    engine: Literal["local", "ray"] = "local"
    """Who makes the parts: this process, or the workers of a Ray cluster, as the same files."""
    ray: RayExportSettings = field(default_factory=RayExportSettings)
    """The cluster of engine=ray"""

    def __post_init__(self) -> None:
        for_users = {"histories": self.histories, "behaviour": self.behaviour, "at": self.at}
        idle = {"layer": self.layer} if self.what == "users" else for_users
        for name, value in idle.items():
            if value is not None:
                raise ConfigError(f"{name} cannot act on the vectors of {self.what}. Leave it out.")
        if self.part_size < 1:
            raise ConfigError(f"part_size is {self.part_size}; it must be at least 1.")
        if self.engine != "ray" and self.ray != RayExportSettings():
            raise ConfigError("the settings of --ray are for --engine ray. Give it, too.")


def main(config: RecExportSettings) -> None:
    """Export vectors as a folder of parquet parts with the columns id and vector.

    A command that was stopped goes on when it is given again: finished parts are kept. The folder
    is a source for rec_index --vectors.
    """
    run = RunDir.open(config.run, STAGES)
    source, made_of, files = _source(run, config)
    made_of = {"model": run.model_sha256, "what": config.what, **made_of}
    made_of["part_size"] = config.part_size
    folder = Path(config.output or run.path / f"{config.what[:-1]}_vectors")
    parts = RunDir.create(folder, EXPORTED, made_of, named_by="--output")
    if parts.is_complete:
        logger.info("%s is finished.", folder)
        return
    export = VectorExport(
        run.path.resolve(),
        source,
        folder.resolve(),
        made_of,
        config.part_size,
        config.device,
        tuple(run.read_config().get(PLUGINS) or ()),
    )
    with stage(f"export the {config.what}"), naming_plugins_of(run):
        paths = export_vectors(export, config.ray if config.engine == "ray" else None, files=files)
        parts.finish(("config.yaml", *(path.name for path in paths)))
    logger.info("%s is finished: %d parts", folder, len(paths))


def _source(
    run: RunDir, config: RecExportSettings
) -> tuple[ItemSource | UserSource, dict[str, Any], list[Path]]:
    """Return whose vectors are made, what they depend on beside the model, and files to be read."""
    if config.what == "items":
        return ItemSource(run.path.resolve(), config.layer), {"layer": config.layer}, []
    data = log_settings_of(run).data
    if config.histories is not None:
        data = replace(data, source=config.histories, weight_column=None)
    made_of: dict[str, Any] = {"behaviour": config.behaviour, "histories": data.source}
    if config.at is not None:
        made_of["at"] = config.at
    prepared = open_prepared(data)
    if prepared is not None:
        folder = Path(data.source).resolve()
        made_of["files"] = prepared.source
        return UserSource(folder, config.behaviour, config.at), made_of, [folder]
    made_of["files"] = _files(data)
    item_type = Vocabulary.load(run.path).ids.type
    log = read_histories_of(log_settings_of(run).data, config.histories, item_type)
    return UserSource(log, config.behaviour, config.at), made_of, []


def _files(data: DataSettings) -> list[list[Any]]:
    parts = open_parts(source_of(data), data.columns())
    return files_of(part.name for part in parts)


if __name__ == "__main__":
    run_command(main, RecExportSettings)
