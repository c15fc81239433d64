"""The circle of items, walked through the commands once."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.pipelines.commands import SMALL, succeed
from tests.worlds import cycle_world


@dataclass(frozen=True)
class World:
    """A log on disk, and what the commands made of it."""

    events: pd.DataFrame
    log: Path
    pretrained: Path
    finetuned: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    made = World(
        cycle_world(), folder / "log.csv", folder / "runs/pretrained", folder / "runs/finetuned"
    )
    made.events.to_csv(made.log, index=False)
    data = f"--data.source={made.log}"
    succeed("rec_pretrain", "--run", made.pretrained, data, *SMALL, "--training.epochs=20")
    succeed(
        *("rec_finetune", "--run", made.finetuned, "--pretrained", made.pretrained, data, *SMALL),
        "--training.epochs=10",
    )
    succeed("rec_index", "--run", made.finetuned)
    return made


@pytest.fixture(scope="session")
def from_parquet(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretrained run again, its log read from another file."""
    folder = tmp_path_factory.mktemp("parquet")
    world.events.to_parquet(folder / "log.parquet")
    config = ("--config", world.pretrained / "config.yaml")
    source = f"--data.source={folder / 'log.parquet'}"
    succeed("rec_pretrain", *config, "--run", folder / "run", source)
    return folder / "run"


@pytest.fixture
def copied(world: World, tmp_path: Path) -> Path:
    """A copy of the fine-tuned run, to be damaged."""
    return Path(shutil.copytree(world.finetuned, tmp_path / "copied"))
