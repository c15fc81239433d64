"""A command as a process of its own, which is told when it is to stop."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines import ablation_runs
from pipelines.cli import UNFINISHED


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `pipelines.sleeper` says that it is ready; it sleeps until it is told to stop."""
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sleeper.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('ready', *sys.argv[1:], flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation_runs, "LOOK_EVERY_S", 0.05)
    return tmp_path / "run.log"


def is_ready(log: Path) -> bool:
    return log.exists() and "ready" in log.read_text()


@pytest.mark.parametrize("is_enough", [None, lambda: False])
def test_sigterm_is_handed_on(log, is_enough):
    def stop() -> None:
        while not is_ready(log):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    assert ablation_runs.start("sleeper", ["--run", "x"], log, is_enough) == UNFINISHED
    assert log.read_text() == "ready --run x\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_is_told_to_stop_once_it_is_enough(log):
    assert ablation_runs.start("sleeper", [], log, lambda: is_ready(log)) == UNFINISHED
