"""The most memory that this process has held; alone, since other libraries' Pythons read it too.

`ru_maxrss` would not do: it is handed on to what a process starts, so that a small child of a large
benchmark seems to begin with the benchmark's memory.
"""

import contextlib
import resource
from pathlib import Path


def peak_mib() -> float:
    """Return the peak of resident memory since the process began, or since `forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def forget_peak() -> None:
    """Let the peak begin anew; where the system cannot, nothing happens."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
