"""Windows and passes in which others used the machine do not count."""

import subprocess
import sys

import pytest

from benchmarks import quiet
from benchmarks.quiet import Windows, in_turn, is_quiet, own_cpu_s, quiet_ones


@pytest.fixture
def loads(monkeypatch) -> list[float]:
    """Shares of others, which the windows find one after the other."""
    found: list[float] = []
    monkeypatch.setattr(quiet.ForeignLoad, "share", lambda self: found.pop(0))
    return found


def test_only_windows_without_others_count(loads):
    loads += [0.0, 0.5, 0.01]
    windows = Windows(length=0.0)
    for done in (10, 1000, 30):
        windows.count(items=done)
        windows.tick()
    found = windows.summary()
    assert found["is_quiet"] and found["foreign"] > 0
    assert found["items_per_s"] == pytest.approx(40 / found["quiet_s"])


def test_where_no_window_is_quiet_all_count_and_it_is_said(loads):
    loads += [0.5, 0.5]
    windows = Windows(length=0.0)
    for _ in range(2):
        windows.count(items=1)
        windows.tick()
    found = windows.summary()
    assert not found["is_quiet"] and found["quiet_s"] == 0 and found["items_per_s"] > 0


def test_what_a_window_counts_is_asked_for_when_it_ends(loads):
    loads += [0.0]
    windows = Windows(length=0.0, finish=lambda: None)
    windows._finish = lambda: windows.count(items=7)
    windows.start()
    windows.tick()
    assert windows.summary()["items_per_s"] == pytest.approx(7 / windows.summary()["quiet_s"])


def test_work_shorter_than_a_window_is_one(loads):
    loads += [0.0]
    windows = Windows(length=100.0)
    windows.count(items=1)
    windows.tick()
    windows.tick(last=True)
    assert windows.summary()["items_per_s"] > 0


def test_a_form_that_fails_is_said_once_and_the_others_are_measured():
    calls = []

    def fails() -> str:
        calls.append(1)
        return "failed: no such library"

    measured, failures = in_turn({"a": lambda: {"foreign": 0.0}, "b": fails}, passes=3)
    assert failures == {"b": "failed: no such library"} and len(calls) == 1
    assert list(measured) == ["a"] and len(measured["a"]) == 3


def test_busy_passes_count_only_where_there_is_no_other():
    calm, busy, own_word = {"foreign": 0.01}, {"foreign": 0.3}, {"foreign": 0.3, "is_quiet": True}
    assert quiet_ones([calm, busy, own_word]) == [calm, own_word]
    assert quiet_ones([busy, busy]) == [busy, busy]
    assert is_quiet({"foreign": None})


def test_the_processor_time_of_children_is_ones_own():
    before = own_cpu_s()
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-S", "-c", work], check=True)
    assert own_cpu_s() - before > 0.25
