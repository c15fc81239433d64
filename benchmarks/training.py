"""How many real interactions a second does a training read, beside other libraries?

    python -m benchmarks.training --data ml-1m.parquet --seconds 40 --peers PEERS --passes 2

idbert trains by its own trainer (build_trainer), a peer by its driver (benchmarks.peers): the same
architecture, masking and dropout, tokens of a step near each other, full softmax unless --loss
names another. With --attention_dropout idbert drops attention too, as all peers do; without it
neither the table nor the peers' figures are the same work, and the first form is the one to
compare. Interactions are real input positions, without padding.

A step is counted where other processes used less than 6% of the machine in its window of a second;
`foreign` is their share over all windows. CPU figures are per second of our own processor time, and
tell on a busy machine too. `of the peak` is the arithmetic that the model needs for real positions
(`needed_operations`: the last layer and the scores only where a target stands; backward twice as
much as forward) over the time, beside that of float32 products of 1,024 x 1,024 by torch.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.peers import PEERS, ForeignLoad, add_architecture, run_driver
from idbert import Vocabulary, read_interactions
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.sequences import SequenceSettings, build_sequences
from idbert.inputs.splits import leave_last_out
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import ItemModel, MaskedItemModel, NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_trainer

MODELS: dict[str, type[ItemModel]] = {"bert4rec": MaskedItemModel, "sasrec": NextItemModel}
QUIET = 0.06
"""The drivers' own limit."""


class Meter(TrainerCallback):
    """Counts what each step reads, in windows of a second, and ends the training in time.

    Attributes:
        windows: Of each: seconds, own CPU seconds, interactions, operations, foreign share.
    """

    def __init__(self, seconds: float, warmup: int) -> None:
        self.windows: list[list[float]] = []
        self._limit, self._warmup = seconds, warmup
        self._interactions = self._operations = 0.0

    def count(self, batch: dict[str, Any], sizes: dict[str, int]) -> None:
        """Add a batch's real positions and the operations that they need."""
        lengths_B = batch["attention_mask"].sum(1).double()
        targets_B = (batch["labels"] != -100).sum(1).double()
        self._interactions += float(lengths_B.sum())
        self._operations += needed_operations(lengths_B.numpy(), targets_B.numpy(), **sizes)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Close the window, if it is a second old."""
        if state.global_step == self._warmup:
            self._end, self._open = time.perf_counter() + self._limit, None
        if state.global_step >= self._warmup:
            self._next_window()
            control.should_training_stop = time.perf_counter() > self._end

    def _next_window(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        if self._open is not None:
            began, cpu_before, load = self._open
            if now - began < 1:
                return
            numbers = [self._interactions, self._operations, load.share() or 0.0]
            self.windows.append([now - began, cpu - cpu_before, *numbers])
        self._open = (now, cpu, ForeignLoad())
        self._interactions = self._operations = 0.0


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


def measure_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Train for some seconds in this process, and say how fast."""
    torch.set_num_threads(options.threads)
    after_imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    train = leave_last_out(read_interactions(options.data)).train
    vocabulary = Vocabulary.from_interactions(train)
    is_masked = options.model == "bert4rec"
    lengths = SequenceSettings(max_length=options.maxlen + (not is_masked))
    architecture = EncoderSettings(
        hidden_size=options.hidden,
        num_layers=options.layers,
        num_heads=options.heads,
        max_length=options.maxlen,
        hidden_dropout=options.dropout,
        attention_dropout=options.dropout if options.attention_dropout else 0.0,
    )
    loss = LossSettings(options.loss, json.loads(options.loss_options))
    model = MODELS[options.model].build(
        architecture, vocab_size=len(vocabulary), loss=loss, item_counts=vocabulary.counts_V
    )
    meter = Meter(options.seconds, options.warmup)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            model,
            build_sequences(train, vocabulary, lengths),
            MaskingSettings(probability=options.mask) if is_masked else None,
            BatchSettings(token_budget=options.tokens),
            TrainingSettings(epochs=10_000, precision=options.precision, evaluate_every=10_000),
            output_dir=folder,
            callbacks=[meter],
        )
        negatives = json.loads(options.loss_options).get("negatives", 1024)
        sizes = {
            "layers": options.layers,
            "hidden": options.hidden,
            "inner": 4 * options.hidden,
            "rows": negatives if model.loss.draws_rows else len(vocabulary),
            "is_causal": not is_masked,
        }
        model.register_forward_pre_hook(
            lambda module, args, kwargs: meter.count(kwargs, sizes), with_kwargs=True
        )
        trainer.train_or_resume()
    windows = np.array(meter.windows)
    quiet = windows[windows[:, 4] < QUIET]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = quiet if len(quiet) else windows
    return {
        "quiet_s": float(quiet[:, 0].sum()),
        "quiet_interactions_per_s": float(rate[:, 2].sum() / rate[:, 0].sum()),
        "interactions_per_cpu_s": float(windows[:, 2].sum() / windows[:, 1].sum()),
        "gflops": float(rate[:, 3].sum() / rate[:, 0].sum() / 1e9),
        "foreign_cpu": float(np.average(windows[:, 4], weights=windows[:, 0])),
        "peak_after_imports_mb": (peak - after_imports) / 1024,
        "peak_gflops": peak_gflops(),
    }


def peak_gflops(size: int = 1024, rounds: int = 5) -> float:
    """Return the best rate of float32 products by torch as it stands, in 10^9 operations a second.

    Used on the machine that trains: MKL's products, which are what other libraries get.
    """
    left, right = torch.randn(2, size, size)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


def in_own_process(arguments: list[str], threads: int) -> dict[str, Any]:
    """Measure idbert in a process of its own, as the peers are."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments, "--worker"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def main(arguments: list[str] | None = None) -> None:
    """Print one line a measurement, and the ratio to the fastest peer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_architecture(parser)
    parser.add_argument("--model", choices=list(MODELS), default="bert4rec")
    parser.add_argument("--seconds", type=float, default=40.0, help="of training, behind --warmup")
    parser.add_argument("--warmup", type=int, default=50, help="steps that are not counted")
    parser.add_argument("--mask", type=float, default=0.2)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--attention_dropout", action="store_true")
    parser.add_argument("--tokens", type=int, default=2000, help="positions of our batches")
    parser.add_argument("--loss", default="chunked")
    parser.add_argument("--loss_options", default="{}", help="as JSON")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(measure_ours(options)))
        return
    given = list(sys.argv[1:] if arguments is None else arguments)
    print(f"{options.data.name}, {options.model}, {options.threads} threads\n")
    print("| who | interactions/s | a CPU second | MB after imports | of the peak | foreign |")
    print("|---|---:|---:|---:|---:|---:|")
    rates: dict[str, list[float]] = {}
    left_out: list[str] = []
    for _ in range(options.passes):
        for who in ("idbert", *(PEERS if options.peers else ())):
            if who == "idbert":
                result: dict[str, Any] | str = in_own_process(given, options.threads)
            elif options.model not in PEERS[who]:
                continue
            else:
                limits = ("--seconds", options.seconds, "--threads", options.threads)
                sizes = ("--mask", options.mask, "--dropout", options.dropout, "--no-eval")
                result = run_driver(who, options.model, options, *limits, *sizes)
            if isinstance(result, str):
                left_out.append(result)
                continue
            rate = result.get("quiet_interactions_per_s") or result["interactions_per_s"]
            rates.setdefault(who, []).append(rate)
            print(row(who, rate, result), flush=True)
    print()
    theirs = {who: statistics.median(found) for who, found in rates.items() if who != "idbert"}
    if theirs:
        fastest = max(theirs, key=theirs.__getitem__)
        ratio = statistics.median(rates["idbert"]) / theirs[fastest]
        print(f"idbert is {ratio:.1f} times as fast as {fastest}, the fastest of the others")
    print("\n".join(dict.fromkeys(left_out)))


def row(who: str, rate: float, result: dict[str, Any]) -> str:
    """Return a line of the table; what a driver does not tell is left empty."""
    peak = f"{result['gflops'] / result['peak_gflops']:.0%}" if "gflops" in result else ""
    memory = result.get("peak_after_imports_mb")
    cells = [
        who,
        f"{rate:,.0f}",
        f"{result.get('interactions_per_cpu_s') or 0:,.0f}",
        "" if memory is None else f"{memory:,.0f}",
        peak,
        f"{result.get('foreign_cpu') or 0:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
