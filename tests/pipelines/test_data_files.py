"""Data that have changed since a run was trained on them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from idbert.errors import ConfigError
from idbert.run_dir import RunDir
from pipelines.data_files import (
    files_named_in,
    have_changed,
    is_same,
    made_of_others,
    refuse_changed,
    remember_files,
)


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
    data = Data(str(train), str(dev))
    assert list(files_named_in(data)()) == [str(train), str(dev)]
    assert not have_changed(run, files_named_in(data))  # nothing was kept
    remember_files(run, files_named_in(data))
    assert set(run.read_json("data_files.json")) == {str(train), str(dev)}
    refuse_changed(run, files_named_in(data))
    dev.write_text("owt")
    with pytest.raises(ConfigError, match="is trained, and its data have changed since"):
        refuse_changed(run, files_named_in(data))
    assert made_of_others(run)
    dev.write_text("two")
    assert not have_changed(run, files_named_in(data)) and not made_of_others(run)
    train.unlink()  # it may be gone, the other one is as it was
    assert not have_changed(run, files_named_in(data)) and not made_of_others(run)


def test_files_of_a_pattern_are_told_apart_from_others(run: RunDir, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    data = Data(str(tmp_path / "*.txt"))
    remember_files(run, files_named_in(data))
    assert len(run.read_json("data_files.json")) == 2
    (tmp_path / "c.txt").write_text("c")
    assert have_changed(run, files_named_in(data))
    (tmp_path / "c.txt").unlink()
    (tmp_path / "b.txt").rename(tmp_path / "moved.txt")
    assert is_same(run, files_named_in(data))


def test_files_that_are_gone_are_no_change(run: RunDir, tmp_path: Path) -> None:
    train = tmp_path / "train.tsv"
    train.write_text("one")
    files = files_named_in(Data(str(train)))
    remember_files(run, files)
    train.unlink()
    assert not have_changed(run, files_named_in(Data(str(train))))
