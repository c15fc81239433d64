"""One process at a time writes in a folder: two would delete each other's checkpoints."""

import os
from pathlib import Path

from idbert.errors import BusyError

try:
    import fcntl
except ImportError:  # Windows has none, and goes without
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Keep other processes out of a folder until `release_all`, or the end of this one.

    The system lets go of it when this process ends, be it by kill -9. A folder that cannot be
    written to, or on a file system that knows no locks, is gone without.

    Args:
        folder: Made if absent; held by this process already, it stays so.

    Raises:
        BusyError: another process holds it.
    """
    folder = folder.resolve()
    if fcntl is None or (folder in _held and _is_there(folder, _held[folder])):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 20).decode() or "unknown"
        os.close(file)
        raise BusyError(
            f"Another process (number {owner}) is at work in {folder}. Wait for its end, or name "
            "another folder with --run."
        ) from None
    except OSError:
        os.close(file)
        return
    if not _is_there(folder, file):  # its last owner has just taken it away
        os.close(file)
        hold(folder)
        return
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    _held[folder] = file


def release_all() -> None:
    """Let other processes into all folders that this one holds."""
    while _held:
        folder, file = _held.popitem()
        if _is_there(folder, file):
            (folder / LOCK).unlink()
        os.close(file)


def _is_there(folder: Path, file: int) -> bool:
    """Say whether the folder's lock is this open file."""
    try:
        return (folder / LOCK).stat().st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


def _let_go_in_child() -> None:
    """Close what a forked process has inherited, or it would hold on behind its parent's end."""
    while _held:
        os.close(_held.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
