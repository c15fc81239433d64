"""How much memory and time does an evaluation over a large catalogue take?

    python -m benchmarks.evaluation_memory --items 1000000 --users 2000

Scores are inner products of random vectors, which cost little, so that what is measured is the
ranking itself, its metrics and their intervals. Peak memory is that of the process, above what it
held before the evaluation began (the vectors, histories and counts are there by then).
"""

import argparse
import resource
import threading
import time
from pathlib import Path

import numpy as np
import torch

from idbert.evaluation.evaluate import evaluate
from idbert.rows import FIRST_ITEM

MIB = 2**20
HISTORY = 50  # events of a user
PAGE = resource.getpagesize()


class PeakMemory:
    """Watches the process's resident memory inside a block; `mib` is its peak above the start."""

    def __enter__(self) -> "PeakMemory":
        """Begin to watch."""
        self._start = self._peak = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()
        self.mib = (self._peak - self._start) / MIB

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def main() -> None:
    """Print the peak memory and the speed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="in the catalogue")
    parser.add_argument("--users", type=int, default=2000, help="one target each")
    parser.add_argument("--width", type=int, default=16, help="of the vectors that make the scores")
    parser.add_argument("--memory_mib", type=int, default=512, help="for one chunk of scores")
    options = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    vocab_size = FIRST_ITEM + options.items
    items_VD = torch.randn(vocab_size, options.width)
    users_UD = torch.randn(options.users, options.width)
    seen = rng.integers(FIRST_ITEM, vocab_size, HISTORY * options.users)
    offsets = np.arange(options.users + 1) * HISTORY
    counts_V = rng.integers(0, 100, vocab_size)
    targets_U = rng.integers(FIRST_ITEM, vocab_size, options.users)

    started = time.perf_counter()
    with PeakMemory() as peak:
        evaluate(
            lambda positions_B: users_UD[torch.from_numpy(positions_B)] @ items_VD.T,
            targets_U,
            (seen, offsets),
            counts_V=counts_V,
            split="random",
            memory_mib=options.memory_mib,
        )
    seconds = time.perf_counter() - started
    print(
        f"{options.items:,} items, {options.users:,} users: {peak.mib:,.0f} MiB above the start, "
        f"{seconds:.1f} s, {options.users / seconds:,.0f} users/s"
    )


if __name__ == "__main__":
    main()
