"""The peak of a process's memory, whoever has started it."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.resident import forget_peak, peak_mib

RESIDENT = Path(__file__).parents[2] / "benchmarks" / "resident.py"
MIB = 2**20


def test_a_small_process_of_a_large_one_begins_small():
    ballast = np.ones(300 * MIB, np.uint8)
    code = f"exec(open({str(RESIDENT)!r}).read()); print(peak_mib())"
    told = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert ballast[-1] and peak_mib() > 300
    assert 1 < float(told.stdout) < 100


def test_a_peak_is_kept_until_it_is_forgotten():
    forget_peak()
    before = peak_mib()
    np.ones(200 * MIB, np.uint8)
    assert peak_mib() > before + 150
    forget_peak()
    assert peak_mib() < before + 100
