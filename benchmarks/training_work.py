"""idbert's own trainer at work, in a process of its own: how fast, and in how much memory?

Started by `benchmarks.training` and `benchmarks.memory` with the settings as JSON.
"""

import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.quiet import Windows
from benchmarks.resident import peak_mib
from idbert import Vocabulary, read_interactions
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.splits import leave_last_out
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import ItemModel, MaskedItemModel, NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.products import fast_products
from idbert.training.arguments import TrainingSettings
from idbert.training.item_trainer import ItemTrainer
from idbert.training.trainer import build_trainer

MODELS: dict[str, type[ItemModel]] = {"bert4rec": MaskedItemModel, "sasrec": NextItemModel}


class Meter(TrainerCallback):
    """Counts what each step reads, in windows of a second, and ends the training in time.

    Attributes:
        windows: With interactions, operations and steps.
    """

    def __init__(self, seconds: float, warmup: int, sizes: dict[str, Any], device: str) -> None:
        self._read: list[tuple[Tensor, Tensor]] = []
        self._steps = 0
        self._limit, self._warmup, self._sizes = seconds, warmup, sizes
        self.windows = Windows(finish=self._count if device == "cpu" else self._count_finished)

    def see(self, batch: dict[str, Any]) -> None:
        """Keep a batch's real positions and targets, which are counted when the window ends."""
        lengths_B, targets_B = batch["attention_mask"].sum(1), (batch["labels"] != -100).sum(1)
        self._read.append((lengths_B, targets_B))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Begin after the warm-up; close the window, if it is a second old."""
        self._steps += 1
        if state.global_step == self._warmup:
            self.windows.start()
            self._end = time.perf_counter() + self._limit
        elif state.global_step > self._warmup:
            control.should_training_stop = time.perf_counter() > self._end
            self.windows.tick(last=control.should_training_stop)

    def _count(self) -> None:
        """Count the batches of the window."""
        for lengths_B, targets_B in self._read:
            lengths, targets = lengths_B.double().cpu(), targets_B.double().cpu()
            needed = needed_operations(lengths.numpy(), targets.numpy(), **self._sizes)
            self.windows.count(interactions=float(lengths.sum()), operations=needed)
        if self._read:
            self.windows.count(steps=self._steps)
        self._read, self._steps = [], 0

    def _count_finished(self) -> None:
        torch.cuda.synchronize()
        self._count()


def needed_operations(
    lengths_B: np.ndarray,
    targets_B: np.ndarray,
    *,
    layers: int,
    hidden: int,
    inner: int,
    rows: int,
    is_causal: bool,
) -> float:
    """Return the floating-point operations of products, forward and backward, of real positions.

    A layer at n queries over m keys: 2 n (2 D^2 + 2 D F) for queries, output and feed-forward, 2 m
    (2 D^2) for keys and values, 4 n m D for scores and shares (half of it where it is causal). The
    last layer has its targets as queries. The scores of a target: 2 D V. Backward: twice that.

    Args:
        lengths_B: Real positions of each sequence.
        targets_B: Those of them with a target.
        layers: Number of layers.
        hidden: D.
        inner: F.
        rows: V; of a sampled loss the rows that it reads.
        is_causal: Whether a position sees only those before it.
    """
    total = 0.0
    for layer in range(layers):
        queries_B = targets_B if layer == layers - 1 else lengths_B
        dense_B = 2 * queries_B * (2 * hidden**2 + 2 * hidden * inner)
        dense_B = dense_B + 2 * lengths_B * 2 * hidden**2
        attention_B = 4 * queries_B * lengths_B * hidden * (0.5 if is_causal else 1)
        total += float((dense_B + attention_B).sum())
    return 3 * (total + float(targets_B.sum()) * 2 * hidden * rows)


def build(
    work: Namespace,
    folder: str,
    settings: TrainingSettings,
    callbacks: Sequence[TrainerCallback] = (),
    done: Callable[[str], None] = lambda phase: None,
) -> ItemTrainer:
    """Go from the log to a trainer.

    Args:
        work: What is read, built and trained; `tokens` of a step, 0: as many as a peer's hold.
        folder: Of the checkpoints.
        settings: Of the training.
        callbacks: Of the trainer.
        done: Is told of each phase when it ends.
    """
    torch.manual_seed(0)
    log = read_interactions(work.data)
    done("the log read")
    train = leave_last_out(log).train
    del log
    done("the log split")
    vocabulary = Vocabulary.from_interactions(train)
    lengths = SequenceSettings(max_length=work.maxlen + (work.model != "bert4rec"))
    sequences = build_sequences(train, vocabulary, lengths)
    del train
    done("vocabulary and sequences")
    mean = float(sequences.lengths.clip(max=work.maxlen).mean())
    tokens = work.tokens or round(work.batch * mean)
    trainer = built(work, sequences, vocabulary.counts_V, tokens, folder, settings, callbacks)
    done("model and trainer")
    return trainer


def built(
    work: Namespace,
    sequences: Sequences,
    counts_V: Int64[np.ndarray, "V"],
    tokens: int,
    folder: str,
    settings: TrainingSettings,
    callbacks: Sequence[TrainerCallback],
) -> ItemTrainer:
    """Build the model and its trainer.

    Args:
        work: Architecture, loss and masking.
        sequences: To train on.
        counts_V: Events of each row of the catalogue.
        tokens: Positions of a step.
        folder: Of the checkpoints.
        settings: Of the training.
        callbacks: Of the trainer.
    """
    is_masked = work.model == "bert4rec"
    architecture = EncoderSettings(
        hidden_size=work.hidden,
        num_layers=work.layers,
        num_heads=work.heads,
        max_length=work.maxlen,
        hidden_dropout=work.dropout,
        attention_dropout=work.dropout if work.attention_dropout else 0.0,
    )
    model = MODELS[work.model].build(
        architecture,
        vocab_size=len(counts_V),
        loss=LossSettings(work.loss, work.loss_options),
        item_counts=counts_V,
    )
    return build_trainer(
        model,
        sequences,
        MaskingSettings(probability=work.mask) if is_masked else None,
        BatchSettings(token_budget=max(work.maxlen, tokens // work.accumulation)),
        settings,
        output_dir=folder,
        callbacks=callbacks,
    )


def training_settings(work: Namespace, **more: Any) -> TrainingSettings:
    """Return settings of a training that does nothing but steps."""
    return TrainingSettings(
        epochs=10_000,
        evaluate_every=10_000,
        precision=work.precision,
        accumulation=work.accumulation,
        sparse_rows=vars(work).get("sparse_rows"),
        device="cpu" if work.device == "cpu" else "auto",
        **more,
    )


def measure(work: Namespace) -> dict[str, Any]:
    """Train for some seconds, and say how fast."""
    torch.set_num_threads(work.threads)
    after_imports = peak_mib()
    sizes = {
        "layers": work.layers,
        "hidden": work.hidden,
        "inner": 4 * work.hidden,
        "is_causal": work.model != "bert4rec",
    }
    meter = Meter(work.seconds, work.warmup, sizes, work.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(work, folder, training_settings(work), [meter])
        model = trainer.model
        draws = model.loss.draws_rows
        negatives = work.loss_options.get("negatives", 1024)
        sizes["rows"] = negatives if draws else model.config.vocab_size
        model.register_forward_pre_hook(
            lambda module, args, kwargs: meter.see(kwargs), with_kwargs=True
        )
        trainer.train_or_resume()
    found = meter.windows.summary()
    gpu = work.device == "cuda"
    return {
        **found,
        "gflops": found["operations_per_s"] / 1e9,
        "training_mib": peak_mib(),
        "imports_mib": after_imports,
        "device_mib": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
        "peak_gflops": peak_gflops(work.device, work.precision),
    }


def peak_gflops(device: str = "cpu", precision: str = "float32", rounds: int = 5) -> float:
    """Return the best rate of products that this machine shows, in 10^9 operations a second.

    On a processor always in float32, and the better of torch's own products (by MKL, which on AMD
    leaves half of AVX-512 unused) and those that idbert trains with (`fast_products`).
    """
    size, kind = 1024, torch.float32
    if device == "cuda":
        size, kind = 8192, torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.randn(2, size, size, device=device, dtype=kind)
    seconds = []
    for products in (nullcontext, fast_products):
        with products():
            for _ in range(rounds):
                started = time.perf_counter()
                torch.mm(left, right)
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(Namespace(**json.loads(sys.argv[1])))))
