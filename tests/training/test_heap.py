"""Freed memory is kept: the next tensor of the size costs few new pages."""

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
