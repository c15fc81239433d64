"""Runs the commands as a shell does, but in this process: a new Python takes seconds to start."""

import contextlib
import io
import logging
import runpy
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pipelines.cli import SPEAKERS

TINY = ("--model.hidden_size=8", "--batches.token_budget=200", "--training.max_steps=2")
"""Settings of a training that ends at once and learns nothing."""

SMALL = (
    "--model.hidden_size=32",
    "--batches.token_budget=200",
    "--training.learning_rate=0.01",
    "--training.evaluate_every=5",
)
"""Settings of a training that learns a circle of items in a second."""


@dataclass(frozen=True)
class Finished:
    """What a command left behind: its exit status, and what it wrote on stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error without the log lines above it."""
        lines = self.err.splitlines()
        starts = [place for place, line in enumerate(lines) if "Error: " in line]
        return "\n".join(lines[starts[-1] :]) if starts else ""


def run(name: str, *arguments: object) -> Finished:
    """Run `python -m pipelines.NAME ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    loggers = [logging.getLogger(name) for name in SPEAKERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with (
            mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(action="ignore", category=RuntimeWarning),
        ):
            runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        return Finished(int(stopped.code or 0), out.getvalue(), err.getvalue())
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    raise AssertionError("a command ends with an exit status")


def succeed(name: str, *arguments: object) -> Finished:
    """Run a command that must not fail."""
    finished = run(name, *arguments)
    assert finished.status == 0, finished.err
    return finished


def weights(run_folder: Path) -> bytes:
    """Return the weights of a finished run, to be compared bit for bit."""
    return (run_folder / "model" / "model.safetensors").read_bytes()
