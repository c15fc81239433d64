"""Files and folders written whole or not at all, and the digests that find later damage."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idbert.errors import CheckpointError, DataError


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Yield a free path beside `target`; what is written there becomes `target`, or nothing does.

    The block writes a file or a folder at the path. It is then synced to disk and renamed, and an
    earlier `target` is gone. On an exception what was written is removed and an earlier `target`
    stays. A file is replaced in one step; between an old folder and its replacement there is an
    instant without either, in which the old one lies beside, as `.NAME.old`.

    Raises:
        DataError: the disk has no room, or a folder is where a file is to be.
    """
    aside = target.parent / f".{target.name}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)  # left by a process that was killed
        yield aside
        _sync(aside)
        _replace(aside, target)
        _sync_entry(target.parent)
    except BaseException as error:
        _remove(aside)
        if _is_disk_full(error):
            raise DataError(
                f"no room on the disk of {target.parent} to write {target.name}. Free some space "
                "and run the same command again; finished files are untouched."
            ) from error
        raise


def digest_of(path: Path) -> dict[str, Any]:
    """Return size (bytes) and SHA-256 of a file, to be kept and given to `verify`."""
    with path.open("rb") as file:
        return {
            "size": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def verify(path: Path, digest: Mapping[str, Any]) -> None:
    """Check a file against its digest. This finds damage, not malice: nothing here is signed.

    Raises:
        CheckpointError: the file is missing, or its size or SHA-256 is another.
    """
    advice = "Copy it again, or run the command that wrote it again."
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the folder was copied in part. {advice}")
    size = path.stat().st_size
    if size != digest["size"]:
        raise CheckpointError(f"{path} has {size} bytes instead of {digest['size']}. {advice}")
    if digest_of(path)["sha256"] != digest["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is another. {advice}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file, or a folder and all that it holds, to disk."""
    for inner in [path, *path.rglob("*")]:
        _sync_entry(inner)


def _sync_entry(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot sync a folder
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(aside: Path, target: Path) -> None:
    """Rename `aside` to `target`; a folder that is there is moved away first, then deleted."""
    old = target.parent / f".{target.name}.old"
    if target.is_dir():
        if not aside.is_dir():
            raise DataError(f"{target} is a folder, and a file is to be written there.")
        _remove(old)
        os.replace(target, old)
    os.replace(aside, target)
    _remove(old)


def _is_disk_full(error: BaseException) -> bool:
    """Say whether a write failed for room; libraries in C++ or Rust only say so in words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, Exception) and "No space left on device" in str(error)
