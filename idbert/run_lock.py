"""One process at a time works in a folder: two would delete each other's checkpoints."""

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

    The system lets go of it when this process ends, be it by kill -9. File systems that know no
    locks are gone without.

    Args:
        folder: Made if absent; held by this process already, it stays so.

    Raises:
        BusyError: another process holds it.
    """
    folder = folder.resolve()
    if fcntl is None or folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
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
    if not _is_there(folder / LOCK, file):  # its last owner has just taken it away
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
        (folder / LOCK).unlink(missing_ok=True)
        os.close(file)


def _is_there(path: Path, file: int) -> bool:
    return path.exists() and path.stat().st_ino == os.fstat(file).st_ino
