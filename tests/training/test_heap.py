"""Freed memory is kept in training, where the next tensor needs it; not before it."""

import ctypes
import subprocess
import sys

import pytest

STEPS = """
import ctypes, torch
from idbert.training.heap import keep_freed_memory
{first}
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names]
glibc = ctypes.CDLL("libc.so.6")
glibc.mallinfo2.restype = Counts
before = glibc.mallinfo2().hblks
for number in range(5):
    parts = [torch.ones(400, size) for size in (3000, 3400, 3800)]
    if number == 0:
        mapped = glibc.mallinfo2().hblks - before
    del parts
print(mapped, glibc.mallinfo2().fordblks)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's, from 2.33")
def test_what_a_step_frees_is_kept_for_the_next():
    mapped, kept = {}, {}
    for first in ("", "keep_freed_memory()"):
        done = subprocess.run(
            [sys.executable, "-c", STEPS.format(first=first)], capture_output=True, check=True
        )
        mapped[first], kept[first] = map(int, done.stdout.split())
    step = 400 * (3000 + 3400 + 3800) * 4
    assert kept["keep_freed_memory()"] >= step
    # Else each is a mapping of its own, which goes back when it is freed. What glibc keeps of later
    # ones hangs on where small pieces lie.
    assert mapped == {"": 3, "keep_freed_memory()": 0}


HOLDING = """
import os
from pathlib import Path
import pyarrow as pa
from idbert.training.heap import keep_freed_memory, release_freed_memory
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
keep_freed_memory()
blocks = [bytes([1]) * 100_000 for _ in range(1000)]
columns = [pa.array([1] * 10_000) for _ in range(1000)]
last = blocks[-1]
del blocks, columns
before = held()
release_freed_memory()
print(before - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_is_freed_before_a_training_is_given_back():
    done = subprocess.run([sys.executable, "-c", HOLDING], capture_output=True, check=True)
    assert int(done.stdout) > 80e6
