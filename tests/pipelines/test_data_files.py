"""Data that have changed since a run was trained on them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from idbert.errors import ConfigError
from idbert.run_dir import RunDir
from pipelines.data_files import files_named_in, have_changed, refuse_changed, remember_files


@dataclass(frozen=True)
class Data:
    """Settings of a task."""

    train: str
    dev: str | None = None
    column: str = "text"
    rows: int = 3


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", "nlp_cls", {})


def test_files_that_settings_name_are_remembered(run: RunDir, tmp_path: Path) -> None:
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text("one")
    dev.write_text("two")
    files = files_named_in(Data(str(train), str(dev)))
    assert list(files()) == [str(train), str(dev)]
    assert not have_changed(run, files)  # nothing was kept
    remember_files(run, files)
    assert set(run.read_json("data_files.json")) == {str(train), str(dev)}
    refuse_changed(run, files)
    dev.write_text("owt")
    with pytest.raises(ConfigError, match="is trained, and its data have changed since"):
        refuse_changed(run, files)
    dev.write_text("two")
    assert not have_changed(run, files)


def test_files_that_are_gone_are_no_change(run: RunDir, tmp_path: Path) -> None:
    train = tmp_path / "train.tsv"
    train.write_text("one")
    files = files_named_in(Data(str(train)))
    remember_files(run, files)
    train.unlink()
    assert not have_changed(run, files)
