"""One process with one thread, one with two, two processes by torchrun: speed and losses.

    python -m benchmarks.scaling --data ml-1m.parquet --steps 200 --peers PEERS --write

Every form trains the same batches of `rec_pretrain` without dropout, so that their losses must be
equal. A step's time is the mean over all but the first fifth of the steps; forms are timed in
turns, as often as `--passes` says. A pass in which other processes used 6% of the machine or more
does not count as long as there is another; on a machine with other work only the equality of the
losses means anything. The peers' drivers train in one process, with one thread and with two, for
as many seconds as --seconds says.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.peers import (
    SMALL,
    Peer,
    add_architecture,
    name_of,
    opened,
    peers_for,
    run_driver,
    trained,
)
from benchmarks.quiet import in_turn, quiet_ones

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Form:
    """A way of starting the same training."""

    name: str
    threads: int
    processes: int


FORMS = (
    Form("idbert; 1 process, 1 thread", 1, 1),
    Form("idbert; 1 process, 2 threads", 2, 1),
    Form("idbert; 2 processes, 1 thread each", 1, 2),
)


def train(form: Form, settings: list[str]) -> dict[str, Any] | str:
    """Run `rec_pretrain` in a form, with the steps' times written beside its run."""
    with tempfile.TemporaryDirectory() as folder:
        times, run = Path(folder) / "times.json", Path(folder) / "run"
        command = ["pipelines.rec_pretrain", "--run", str(run), *settings]
        if form.processes == 1:
            start = [sys.executable, "-m", *command]
        else:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            start = [*launcher, f"--nproc-per-node={form.processes}", "-m", "--", *command]
        environment = {"OMP_NUM_THREADS": str(form.threads), "IDBERT_STEP_TIMES": str(times)}
        finished = subprocess.run(
            start, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
        )
        if finished.returncode:
            return f"failed: {(finished.stderr.strip().splitlines() or ['no output'])[-1]}"
        steps = json.loads(times.read_text())
        curve = json.loads((run / "curve.json").read_text())
    timed = steps[len(steps) // 5 :]
    seconds = sum(step["seconds"] for step in timed)
    interactions = sum(step["interactions"] for step in timed)
    losses = [point["loss"] for point in curve if "loss" in point]
    return {"interactions_per_s": interactions / seconds, "losses": losses}


def theirs(
    peer: Peer, threads: int, options: argparse.Namespace, data: Path
) -> dict[str, Any] | str:
    """Run a peer's driver with so many threads, without dropout."""
    given = argparse.Namespace(**vars(options) | {"threads": threads, "dropout": 0.0})
    result = run_driver(peer, "bert4rec", data, given, "--no-eval", seconds=options.seconds)
    return trained(result)


def table(measured: dict[str, list[dict[str, Any]]], failures: dict[str, str]) -> str:
    """Return what was measured, beside a library's first form and the first losses of all."""
    header = ["", "interactions/s", "of the first", "largest difference of a loss", "foreign"]
    rates = {
        who: [one["interactions_per_s"] for one in quiet_ones(passes)]
        for who, passes in measured.items()
    }
    first = next((passes[0]["losses"] for passes in measured.values() if "losses" in passes[0]), [])
    rows = []
    firsts: dict[str, list[float]] = {}  # of each library the rates of its first form
    for who, passes in measured.items():
        single = firsts.setdefault(who.split(";")[0], rates[who])
        losses = [one["losses"] for one in passes if "losses" in one]
        differences = [abs(a - b) for found in losses for a, b in zip(found, first, strict=True)]
        difference = f"{max(differences):.1e}" if differences else ""
        ratio = report.times(rates[who], single)
        rows.append([who, report.spread(rates[who]), ratio, difference, report.foreign(passes)])
    rows += [report.failed_row(who, why, len(header)) for who, why in failures.items()]
    return report.markdown(header, rows)


def settings_of(options: argparse.Namespace, data: Path) -> list[str]:
    """Return the settings of every form's training."""
    return [
        f"--data.source={data}",
        f"--sequences.max_length={options.maxlen}",
        f"--model.max_length={options.maxlen}",
        f"--model.hidden_size={options.hidden}",
        f"--model.num_layers={options.layers}",
        f"--model.num_heads={options.heads}",
        "--model.hidden_dropout=0",
        f"--masking.probability={options.mask}",
        f"--batches.token_budget={options.tokens}",
        f"--training.max_steps={options.steps}",
        "--training.log_every_steps=1",
        "--training.evaluate_every=1000000",
        "--plugins=[benchmarks.step_times]",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Time all forms and publish the table."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=12800, help="of a batch, all processes'")
    parser.add_argument("--forms", type=int, default=len(FORMS), help="how many, from the first")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a peer's training")
    options = report.parse(parser, arguments, **SMALL, steps=6, tokens=200, forms=1, seconds=0.1)
    forms: dict[str, Callable[[], dict[str, Any] | str]] = {}
    with opened(options) as data:
        for form in FORMS[: options.forms]:
            forms[form.name] = partial(train, form, settings_of(options, data))
        for peer in peers_for(options, "bert4rec"):
            for threads, words in ((1, "1 thread"), (2, "2 threads")):
                forms[f"{peer.name}; {words}"] = partial(theirs, peer, threads, options, data)
        measured, failures = in_turn(forms, options.passes, options.wait)
    title = f"Threads and processes, BERT4Rec on {name_of(options)}"
    rates = {
        who: [one["interactions_per_s"] for one in quiet_ones(passes)]
        for who, passes in measured.items()
    }
    notes = [
        f"Hidden {options.hidden}, {options.layers} layers, length {options.maxlen}, "
        f"{options.tokens:,} positions a step of all processes together, no dropout; median of the "
        "quiet passes, in brackets the least and the most.",
        report.versions_of(measured),
    ]
    finished = report.Report(
        report.section_name("scaling", name_of(options)),
        title,
        table(measured, failures),
        notes,
        report.bars(title, rates, "real interactions a second"),
        options.device,
    )
    report.publish(finished, "scaling", options)
    report.check_own(failures)


if __name__ == "__main__":
    main()
