"""Whole files or none, and the digests that find damage."""

import errno
import os
from pathlib import Path

import pytest

from idbert.errors import CheckpointError, DataError
from idbert.files import digest_of, verify, written_aside


def test_what_the_block_writes_becomes_the_file(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "metrics.json"
    with written_aside(target) as aside:
        aside.write_text("{}")
        assert not target.exists()
    assert target.read_text() == "{}"
    assert os.listdir(target.parent) == ["metrics.json"]


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "index"
    for name in ("old", "new"):
        with written_aside(target) as aside:
            aside.mkdir()
            (aside / name).touch()
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["index"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "lists.parquet"
    target.mkdir()
    (target / "part-0.parquet").touch()
    with (
        pytest.raises(DataError, match="lists.parquet is a folder"),
        written_aside(target) as aside,
    ):
        aside.touch()
    assert os.listdir(tmp_path) == ["lists.parquet"]
    assert os.listdir(target) == ["part-0.parquet"]


def test_on_an_exception_the_old_file_stays_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_aside(target) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_what_a_killed_process_left_does_not_get_into_the_next_write(tmp_path: Path) -> None:
    leftover = tmp_path / ".index.partial"
    leftover.mkdir()
    (leftover / "half").touch()
    with written_aside(tmp_path / "index") as aside:
        aside.mkdir()
    assert os.listdir(tmp_path / "index") == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("write error in model.safetensors: No space left on device"),
    ],
)
def test_a_disk_without_room_is_named_with_what_to_do(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(DataError, match=r"no room on the disk of .* to write model\. Free some"),
        written_aside(tmp_path / "model") as aside,
    ):
        aside.mkdir()
        raise error
    assert os.listdir(tmp_path) == []


def test_a_whole_file_passes_and_a_changed_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    digest = digest_of(file)
    verify(file, digest)
    file.write_bytes(b"weight")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has 6 bytes instead of 7"):
        verify(file, digest)
    file.write_bytes(b"weightz")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its SHA-256"):
        verify(file, digest)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"is missing: the folder was copied in part"):
        verify(file, digest)
