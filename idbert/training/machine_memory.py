"""How much memory this process may still take: of the machine, of its container, of the GPU."""

from pathlib import Path

import psutil
import torch

_UNLIMITED = 2**60
"""Version 1 of cgroups writes a number as large as this for "no limit"."""


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Return the bytes that a process may still allocate on a device.

    On the CPU what the machine can give and what is left of the limits of its control groups
    (containers, batch systems), whichever is less; file caches, which can be dropped, are free.

    Args:
        device: Where the model is trained.
        root: Where /proc and /sys lie.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([int(psutil.virtual_memory().available), *_left_of_groups(root)])


def _left_of_groups(root: Path) -> list[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []  # not Linux
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cache = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = "memory", "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        top = root / "sys/fs/cgroup" / base
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if top not in (folder, *folder.parents):
                break
            rest = _left_of_group(folder, limit, usage, cache)
            left += [] if rest is None else [rest]
    return left


def _left_of_group(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return what is left of one group's limit; None where it has none."""
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        if most == "max" or int(most) >= _UNLIMITED:
            return None
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
    except (OSError, ValueError):
        return None
    return max(0, int(most) - used + int(statistics.get(cache, 0)))
