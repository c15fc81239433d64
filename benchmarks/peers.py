"""Other libraries on the same work: their drivers, and what other processes used meanwhile.

A peer is run by its driver, PEERS/drivers/drive_NAME.py, in its own environment, PEERS/venvs/NAME.
It prints one line: RESULT and a JSON object.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

PEERS = {
    "rectools": ("bert4rec", "sasrec"),
    "hf": ("bert4rec", "sasrec"),
    "recbole": ("bert4rec",),
    "replay": ("bert4rec", "sasrec"),
}
"""The models of each."""

EXTRA = {"recbole": ["--no-aug"]}
"""Arguments of a driver; recbole otherwise trains on every prefix of a history."""


class ForeignLoad:
    """Watches what other processes use of the machine."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), _busy_s(), time.process_time()

    def share(self) -> float | None:
        """Return their share since the start; None where the system does not tell."""
        busy = _busy_s()
        if self._busy is None or busy is None:
            return None
        foreign = busy - self._busy - (time.process_time() - self._own)
        elapsed = time.perf_counter() - self._started
        return max(0.0, foreign / (elapsed * (os.cpu_count() or 1)))


def add_architecture(parser: argparse.ArgumentParser) -> None:
    """Let a command line name the architecture, as the drivers' do."""
    parser.add_argument("--data", type=Path, required=True, help="user_id, item_id, timestamp")
    parser.add_argument("--peers", type=Path, help="a folder with drivers/ and venvs/")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--maxlen", type=int, default=200)


def run_driver(
    peer: str, model_name: str, options: argparse.Namespace, *arguments: Any
) -> dict[str, Any] | str:
    """Run a peer's driver; return its result, or why there is none.

    Args:
        peer: its name.
        model_name: bert4rec or sasrec.
        options: of a parser that `add_architecture` has seen.
        arguments: more of the driver's.
    """
    folder = options.peers.absolute()
    python = folder / "venvs" / peer / "bin" / "python"
    driver = folder / "drivers" / f"drive_{peer}.py"
    for needed in (python, driver):
        if not needed.exists():
            return f"{peer} is left out: {needed} is not there"
    command = [python, driver.name, "--data", options.data.resolve(), "--model", model_name]
    for name in ("hidden", "layers", "heads", "maxlen"):
        command += [f"--{name}", getattr(options, name)]
    command += ["--epochs", 100_000, *arguments, *EXTRA.get(peer, [])]
    finished = subprocess.run(
        [str(part) for part in command], cwd=driver.parent, capture_output=True, text=True
    )
    results = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        last = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        return f"{peer}, {model_name} failed: {last}"
    result: dict[str, Any] = json.loads(results[-1].removeprefix("RESULT "))
    return result


def _busy_s() -> float | None:
    """Return the seconds that all cores together have been busy since the system started."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return None
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
