"""One of idbert's works in a process of its own, and what memory each of its phases takes.

Started by `benchmarks.memory` with the settings as JSON. After a phase stands what the process
holds then, and the most that it held in it; both with everything before.
"""

import json
import os
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import TrainerCallback

from benchmarks import training_work
from benchmarks.inference_work import K, histories_of, recommender_of
from benchmarks.resident import forget_peak, peak_mib
from benchmarks.retrieval import draw
from idbert.retrieval.index import VectorIndex

QUERIES = 1024


class Phases:
    """What the process holds after each phase."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []
        self.done("imports")

    def done(self, phase: str) -> None:
        """End a phase."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        self._found.append({"phase": phase, "held_mib": held, "peak_mib": peak_mib()})
        forget_peak()

    def figures(self, name: str) -> dict[str, Any]:
        """Return the phases, the peak after the imports, and by the work's name the peak of all."""
        peak = max(one["peak_mib"] for one in self._found)
        imports = self._found[0]["peak_mib"]
        return {name: peak, "imports_mib": imports, "phases": self._found}


class StepPhases(TrainerCallback):
    """Ends a phase with the first step, and the training in time."""

    def __init__(self, phases: Phases, seconds: float) -> None:
        self._phases, self._seconds = phases, seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End the phase of the first step; end the training when the seconds are over."""
        if state.global_step == 1:
            self._phases.done("the first step")
            self._end = time.perf_counter() + self._seconds
        control.should_training_stop = time.perf_counter() > self._end


def train(work: Namespace) -> dict[str, Any]:
    """Read the log, build a model and train it."""
    phases = Phases()
    torch.set_num_threads(work.threads)
    with tempfile.TemporaryDirectory() as folder:
        steps = StepPhases(phases, work.seconds)
        settings = training_work.training_settings(work)
        trainer = training_work.build(work, folder, settings, [steps], phases.done)
        trainer.train_or_resume()
        phases.done(f"{trainer.state.global_step} steps")
    return phases.figures("training_mib")


def score(work: Namespace) -> dict[str, Any]:
    """Read the log, and recommend to all of its users."""
    phases = Phases()
    torch.set_num_threads(work.threads)
    log = histories_of(Path(work.data), users=0)
    phases.done("the log read and split")
    plain = {"run": None, "table_precision": "float32"}
    recommender = recommender_of(log, Namespace(**(vars(work) | plain)))
    phases.done("vocabulary and model")
    for _ in recommender.recommend_batches(log, K):
        pass
    phases.done("all users scored")
    return phases.figures("scoring_mib")


def build(work: Namespace) -> dict[str, Any]:
    """Draw vectors, build an index and save it."""
    phases = Phases()
    items, _ = draw(work.vectors, work.dimension, 1, bias=0.1, seed=0)
    phases.done("the vectors")
    index = VectorIndex.build(items, pa.array(np.arange(len(items))), factory=work.factory)
    phases.done("the index built")
    index.save(work.folder, "0" * 64)
    phases.done("the index saved")
    return phases.figures("build_mib")


def search(work: Namespace) -> dict[str, Any]:
    """Open a saved index and search it."""
    phases = Phases()
    _, queries = draw(100, work.dimension, QUERIES, bias=0.1, seed=0)
    index = VectorIndex.load(work.folder, mapped=work.mapped)
    phases.done("the index opened")
    index.search(queries, K)
    phases.done(f"{QUERIES:,} queries")
    return phases.figures("search_mib")


WORKS = {"train": train, "score": score, "build": build, "search": search}


if __name__ == "__main__":
    print("RESULT " + json.dumps(WORKS[sys.argv[1]](Namespace(**json.loads(sys.argv[2])))))
