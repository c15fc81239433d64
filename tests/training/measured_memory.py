"""What trainings take, measured: each in a child process of its own, forked before any thread runs.

python -m tests.training.measured_memory prints a JSON list of pairs: estimated, measured bytes.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.sequences import Sequences
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.training.arguments import TrainingSettings
from idbert.training.memory import estimate_memory, workload_of
from idbert.training.trainer import build_trainer

# A large table under all losses over it, the same under a sample, and deep encoders.
GATED = {"feed_forward": "gated", "activation": "silu", "layer_residual": "gated", "norm": "pre"}
CASES: tuple[tuple[Any, ...], ...] = (
    (200_000, 64, 1, 200, LossSettings("chunked"), False),
    (600_000, 48, 1, 200, LossSettings("sampled", {"negatives": 64}), True),
    (3000, 64, 1, 4000, LossSettings("gbce", {"negatives": 256}), False),
    (300_000, 64, 1, 1000, LossSettings("gbce", {"negatives": 256}), True),
    (500, 64, 4, 4000, LossSettings("chunked"), False),
    (500, 64, 4, 4000, LossSettings("chunked"), False, GATED),
)


def resident_bytes(name: str) -> int:
    """Return VmRSS (now) or VmHWM (the most so far) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def train(
    rows: int,
    width: int,
    layers: int,
    budget: int,
    loss: LossSettings,
    sparse: bool,
    changes: dict[str, Any] = {},  # noqa: B006 (read only)
):
    before = resident_bytes("VmRSS")
    rng = np.random.default_rng(0)
    sequences = Sequences.from_histories([rng.integers(4, rows, 51).tolist() for _ in range(160)])
    encoder = EncoderSettings(hidden_size=width, num_layers=layers, max_length=50, **changes)
    model = NextItemModel.build(encoder, vocab_size=rows, loss=loss)
    batches = BatchSettings(token_budget=budget)
    settings = TrainingSettings(max_steps=2, sparse_rows=sparse, evaluate_every=1000)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(model, sequences, None, batches, settings, output_dir=folder)
        trainer._save_checkpoint = lambda *_: None
        trainer.train_or_resume()
    estimate = estimate_memory(workload_of(model, sequences, None, batches, settings, 0))
    return estimate.total, resident_bytes("VmHWM") - before


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for case in CASES:
        receiving, sending = os.pipe()
        child = os.fork()
        if not child:
            with os.fdopen(sending, "w") as pipe:
                json.dump(train(*case), pipe)
            os._exit(0)
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            results.append(json.load(pipe))
        os.waitpid(child, 0)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
