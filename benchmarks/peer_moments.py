"""Lets a peer's driver rank at moments of its training without ending it; run in the peer's Python.

At a moment the process is copied (fork). The copy ends its training, ranks and tells its result, as
the driver does at the end of all; the training waits for it, and its clock with it. So one training
gives the whole curve of a driver whose rate of learning does not depend on when it ends.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

PATIENCE_S = 600
"""What a copy may take for its ranking, with one thread."""


def told_at(folder: Path, seconds: float) -> Path:
    """Return the file of what the copy of a moment prints."""
    return folder / f"{seconds:g}.txt"


def rank_at(moments_s: list[float], folder: Path, common: ModuleType) -> None:
    """Let the meter of the drivers copy the process at each moment.

    Args:
        moments_s: seconds of training.
        folder: of what the copies print.
        common: the drivers' module; its Meter and emit are replaced.
    """
    left, step = sorted(moments_s), common.Meter.step

    def step_or_copy(self, *counts):
        ended = step(self, *counts)
        if ended or not left or time.perf_counter() - self.t_start < left[0]:
            return ended
        path, began = told_at(folder, left.pop(0)), time.perf_counter()
        sys.stdout.flush()
        copy = os.fork()
        if not copy:
            left.clear()
            become_copy(path, common)
            return True
        wait_for(copy)
        self.t_start += time.perf_counter() - began
        if hasattr(self, "mark"):
            self.mark = self._mark()  # a window of the rates begins here
        return ended

    common.Meter.step = step_or_copy


def become_copy(path: Path, common: ModuleType) -> None:
    """Print to the file, leave the training's files alone, and end with the result."""
    import torch

    torch.set_num_threads(1)  # the threads of OpenMP are not copied
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stdout.fileno())
    os.unlink = os.remove = lambda *_, **__: None
    sys.excepthook = fail
    emit = common.emit

    def emit_and_end(*more, **named):
        emit(*more, **named)
        sys.stdout.flush()
        os._exit(0)  # what else the driver does at its end is the training's

    common.emit = emit_and_end


def fail(kind, error, trace) -> None:
    """Tell the error, and leave what is to be done at exit to the training."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


def wait_for(copy: int) -> None:
    """Wait until a copy has ended; one that hangs is killed."""
    until = time.monotonic() + PATIENCE_S
    while os.waitpid(copy, os.WNOHANG)[0] == 0:
        if time.monotonic() > until:
            os.kill(copy, signal.SIGKILL)
            os.waitpid(copy, 0)
            return
        time.sleep(0.02)
