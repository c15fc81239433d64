"""Checkpoints that are either whole or not there.

`checkpoint-N` holds the state after optimizer step N, written aside, synced and renamed. Its
manifest, `checkpoint.json`, lists the files, so that a folder copied in part is recognised too.
"""

import json
import logging
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from idbert.errors import CheckpointError, DataError
from idbert.files import written_aside
from idbert.processes import is_loss_of_process

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_LEFTOVER = re.compile(r"\.checkpoint-\d+\.(partial|old)")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of an optimizer step lies."""
    return folder / f"checkpoint-{step}"


def aside_path(folder: Path, step: int) -> Path:
    """Return where a checkpoint lies while it is being written."""
    return folder / f".checkpoint-{step}.partial"


@contextmanager
def writing_checkpoint(
    folder: Path, step: int, *, origin: Mapping[str, Any], needed_bytes: int
) -> Iterator[Path]:
    """Yield an empty folder; what is written there becomes `checkpoint-{step}`, or nothing does.

    Args:
        folder: Of all checkpoints.
        step: Optimizer steps so far.
        origin: What a training must have in common with the one that resumes it.
        needed_bytes: About what will be written, for the message when the disk is full.

    Raises:
        CheckpointError: writing failed; earlier checkpoints are intact.
    """
    try:
        with written_aside(checkpoint_path(folder, step)) as aside:
            aside.mkdir()
            yield aside
            _write_manifest(aside, origin)
    # torch and safetensors report a failed write as errors of their own
    except (OSError, RuntimeError, SafetensorError, DataError) as error:
        if is_loss_of_process(error):
            raise
        needed_mib = math.ceil(needed_bytes / 2**20)
        free_mib = shutil.disk_usage(folder).free // 2**20
        raise CheckpointError(
            f"checkpoint-{step} could not be written in {folder}: {error}. It needs about "
            f"{needed_mib} MiB, and {free_mib} MiB are free. Earlier checkpoints "
            "are intact: make room, and start the same command again to resume."
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint with the highest step, or None.

    An incomplete one, copied or deleted in part, is passed over with a warning.
    """
    for _, path in sorted(_checkpoints(folder), reverse=True):
        if _is_complete(path):
            return path
        logger.warning("%s is incomplete and is not used", path)
    return None


def check_origin(checkpoint: Path, origin: Mapping[str, Any]) -> None:
    """Check that the training that wrote a checkpoint is the one that is to go on.

    What the checkpoint of an earlier version does not tell is not compared.

    Raises:
        CheckpointError: something in `origin` differs.
    """
    written = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["origin"]
    for name, value in origin.items():
        if written.get(name, value) != value:
            raise CheckpointError(
                f"{checkpoint} cannot be resumed: it was written with {name} {written[name]}, "
                f"and now it is {value}. The data or the settings are others: train in a new "
                "folder."
            )


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half-written or half-deleted."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path)


def remove_old(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Delete all but the `keep` newest checkpoints and the best one.

    A checkpoint is renamed before it is deleted, so that it never lies there in part.
    """
    old = sorted(_checkpoints(folder))[:-keep]
    for step, path in old:
        if step != best_step:
            doomed = path.rename(folder / f".{path.name}.old")
            shutil.rmtree(doomed)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return [(int(match[1]), path) for match, path in matches if match]


def _write_manifest(folder: Path, origin: Mapping[str, Any]) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest = {"origin": dict(origin), "files": sizes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _is_complete(path: Path) -> bool:
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
