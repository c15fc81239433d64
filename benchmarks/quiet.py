"""Time on a machine that others may use: their load is measured, contended windows do not count."""

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUIET = 0.06
"""Share of the machine that others may use in a window that counts; the drivers' own limit."""


class ForeignLoad:
    """Watches what other processes use of the machine; own children count once they have ended."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), _busy_s(), own_cpu_s()

    def share(self) -> float | None:
        """Return their share since the start; None where the system does not tell."""
        busy = _busy_s()
        if self._busy is None or busy is None:
            return None
        foreign = busy - self._busy - (own_cpu_s() - self._own)
        elapsed = time.perf_counter() - self._started
        return max(0.0, foreign / (elapsed * (os.cpu_count() or 1)))


@dataclass(frozen=True)
class Window:
    """What was done in a stretch of time."""

    seconds: float
    cpu_seconds: float
    amounts: dict[str, float]
    foreign: float


class Windows:
    """Work cut into windows of about a second.

    Args:
        length: Seconds of a window.
        finish: Is called before a window ends: waits for a GPU.
    """

    def __init__(self, length: float = 1.0, finish: Callable[[], None] = lambda: None) -> None:
        self._length, self._finish = length, finish
        self._closed: list[Window] = []
        self._amounts: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Begin a window here; what was counted since the last one ended is left out."""
        self._finish()
        self._load, self._began, self._cpu = ForeignLoad(), time.perf_counter(), own_cpu_s()
        self._amounts = {}

    def count(self, **amounts: float) -> None:
        """Add to what the window has done."""
        for name, amount in amounts.items():
            self._amounts[name] = self._amounts.get(name, 0.0) + amount

    def tick(self, *, last: bool = False) -> None:
        """End the window if it is old enough, or if it is the last and there is no other."""
        if time.perf_counter() - self._began < self._length and not (last and not self._closed):
            return
        self._finish()
        seconds = time.perf_counter() - self._began
        cpu = own_cpu_s() - self._cpu
        amounts, self._amounts = self._amounts, {}
        self._closed.append(Window(seconds, cpu, amounts, self._load.share() or 0.0))
        self.start()

    def summary(self) -> dict[str, Any]:
        """Return the rates of the quiet windows (of all, if none is quiet), and the load of all."""
        quiet = [window for window in self._closed if window.foreign < QUIET]
        used = quiet or self._closed
        seconds = sum(window.seconds for window in used)
        cpu = sum(window.cpu_seconds for window in used)
        names = dict.fromkeys(name for window in used for name in window.amounts)
        done = {name: sum(window.amounts.get(name, 0.0) for window in used) for name in names}
        elapsed = sum(window.seconds for window in self._closed)
        foreign = sum(window.seconds * window.foreign for window in self._closed) / elapsed
        return {
            **{f"{name}_per_s": amount / seconds for name, amount in done.items()},
            **{f"{name}_per_cpu_s": amount / max(cpu, 1e-9) for name, amount in done.items()},
            "quiet_s": sum(window.seconds for window in quiet),
            "foreign": foreign,
            "is_quiet": bool(quiet),
        }


def in_turn(
    forms: Mapping[str, Callable[[], dict[str, Any] | str]], passes: int, wait_s: float = 0.0
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Measure every form once, then all of them again, as often as there are passes.

    A form that fails is not tried again; the others are measured nevertheless.

    Args:
        forms: of each name what measures it: its figures, or why there are none.
        passes: how often.
        wait_s: how long to wait for a quiet machine before each measurement.

    Returns:
        The passes of each form that could be measured, and why the others could not.
    """
    measured: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    for number in range(passes):
        for name, measure in forms.items():
            if name in failures:
                continue
            wait_until_quiet(wait_s)
            load, started = ForeignLoad(), time.perf_counter()
            result = measure()
            seconds = time.perf_counter() - started
            if isinstance(result, str):
                failures[name] = result
                print(f"{name}: {result}", file=sys.stderr, flush=True)
                continue
            result.setdefault("foreign", load.share())
            measured.setdefault(name, []).append(result)
            busy = "" if is_quiet(result) else ", while others used the machine"
            print(f"pass {number + 1}, {name}: {seconds:.0f} s{busy}", file=sys.stderr, flush=True)
    return measured, failures


def own_cpu_s() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def quiet_ones(passes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the passes in which others left the machine alone; all, if there is none."""
    return [one for one in passes if is_quiet(one)] or list(passes)


def is_quiet(one: dict[str, Any]) -> bool:
    """Say whether a pass counts: by its own word, or by the foreign load."""
    quiet: bool = one.get("is_quiet", (one.get("foreign") or 0.0) < QUIET)
    return quiet


def wait_until_quiet(seconds: float, probe_s: float = 4.0) -> bool:
    """Wait, at most so long, for a moment in which nobody else works; say whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        load = ForeignLoad()
        time.sleep(min(probe_s, seconds))
        if (load.share() or 0.0) < QUIET:
            return True
    return False


def _busy_s() -> float | None:
    """Return the seconds that all cores together have been busy since the system started."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
