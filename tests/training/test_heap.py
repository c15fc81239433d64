"""Freed memory is kept in training, where the next tensor costs few new pages; not before it."""

import resource
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from idbert.training.heap import keep_freed_memory
{first}
def step():
    parts = [torch.ones(400, size) for size in (3000, 3400, 3800)]
    return sum(part.sum() for part in parts)
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_step_asks_the_system_for_few_more_pages():
    page_faults = {}
    for first in ("", "keep_freed_memory()"):
        done = subprocess.run(
            [sys.executable, "-c", STEPS.format(first=first)], capture_output=True, check=True
        )
        page_faults[first] = int(done.stdout)
    pages = 10 * 400 * (3000 + 3400 + 3800) * 4 / resource.getpagesize()
    assert page_faults["keep_freed_memory()"] < 0.1 * pages
    assert page_faults[""] > 3 * page_faults["keep_freed_memory()"]


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
