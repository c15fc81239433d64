"""One process with one thread, one with two, two processes by torchrun: speed and losses.

python -m benchmarks.scaling --source ml-100k --steps 200

Every form trains the same batches of `rec_pretrain` without dropout, so that their losses must be
equal. A step's time is the mean over all but the first fifth of the steps; forms are timed in
turns, as often as `--passes` says, and the table has the median. On a machine with other work only
the equality of the losses means anything.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Form:
    """A way of starting the same training."""

    name: str
    threads: int
    processes: int


FORMS = (
    Form("1 process, 1 thread", 1, 1),
    Form("1 process, 2 threads", 2, 1),
    Form("2 processes, 1 thread each", 1, 2),
)


@dataclass(frozen=True)
class Outcome:
    """What one training showed."""

    interactions_per_s: float
    losses: list[float]


def train(form: Form, settings: list[str], folder: Path) -> Outcome:
    """Run `rec_pretrain` in a form, with the steps' times written beside its run."""
    times = folder / "times.json"
    command = ["pipelines.rec_pretrain", "--run", str(folder / "run"), *settings]
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
        raise SystemExit(f"{form.name} failed:\n{finished.stderr}")
    steps = json.loads(times.read_text())
    timed = steps[len(steps) // 5 :]
    seconds = sum(step["seconds"] for step in timed)
    interactions = sum(step["interactions"] for step in timed)
    curve = json.loads((folder / "run/curve.json").read_text())
    losses = [row["loss"] for row in curve if "loss" in row]
    return Outcome(interactions / seconds, losses)


def table(outcomes: dict[Form, list[Outcome]]) -> str:
    """Return the outcomes in markdown, with ratios and differences to the first form."""
    first = next(iter(outcomes.values()))
    rate = statistics.median(one.interactions_per_s for one in first)
    lines = [
        "| form | interactions/s | of the first | spread | largest difference of a loss |",
        "|---|---|---|---|---|",
    ]
    for form, runs in outcomes.items():
        rates = [one.interactions_per_s for one in runs]
        median = statistics.median(rates)
        difference = max(
            abs(a - b) for one in runs for a, b in zip(one.losses, first[0].losses, strict=True)
        )
        lines.append(
            f"| {form.name} | {median:,.0f} | {median / rate:.2f} "
            f"| {min(rates):,.0f} to {max(rates):,.0f} | {difference:.1e} |"
        )
    return "\n".join(lines)


def settings_of(arguments: argparse.Namespace) -> list[str]:
    """Return the settings of every form's training."""
    return [
        f"--data.source={arguments.source}",
        f"--model.hidden_size={arguments.hidden_size}",
        "--model.hidden_dropout=0",
        f"--batches.token_budget={arguments.token_budget}",
        f"--training.max_steps={arguments.steps}",
        "--training.log_every_steps=1",
        "--training.evaluate_every=1000000",
        "--plugins=[benchmarks.step_times]",
    ]


def main() -> None:
    """Time all forms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="ml-100k", help="As rec_pretrain's --data.source.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--token-budget", type=int, default=12800)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--forms", type=int, default=len(FORMS), help="How many, from the first.")
    arguments = parser.parse_args()
    outcomes: dict[Form, list[Outcome]] = {form: [] for form in FORMS[: arguments.forms]}
    for _ in range(arguments.passes):
        for form, runs in outcomes.items():
            with tempfile.TemporaryDirectory() as folder:
                runs.append(train(form, settings_of(arguments), Path(folder)))
    print(table(outcomes))


if __name__ == "__main__":
    main()
