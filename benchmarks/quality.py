"""Do the faster operations of a training cost quality, after as many epochs?

    python -m benchmarks.quality --data ml-1m.parquet --write

BERT4Rec by its recipe, trained by idbert's own operations (products by oneDNN, dropout by bits,
attention by batched products, the last layer at targets alone, a chunked softmax) and by torch's
own in float32 (`quality_work.plain_operations`, all scores at once). The same masks, batches and
first weights; dropout draws other numbers. Shares of attention are dropped too, as all peers do.
NDCG@10 and recall@10 of each user of the validation part, averaged over seeds, then a paired
bootstrap over users. Finished trainings are kept in --out and not made again.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.peers import name_of, opened
from benchmarks.quality_work import PATHS
from idbert.evaluation.bootstrap import paired
from idbert.run_dir import RunDir
from pipelines.reporting import evaluate_runs

METRICS = ("ndcg@10", "recall@10")
NAMES = {"idbert": "idbert", "torch": "torch's operations, float32"}
LOSSES = {"idbert": "chunked", "torch": "full"}
RECIPE = Path("pipelines/recipes/ml-1m-bert4rec.yaml")
SMALL_MODEL = "--model.hidden_size 8 --model.num_layers 1 --sequences.max_length 10".split()


def train(path: str, seed: int, data: Path, options: argparse.Namespace) -> RunDir:
    """Train by one way with one seed, or open what an earlier call has trained."""
    run = options.out / f"{path}-{seed}"
    command = [sys.executable, "-m", "benchmarks.quality_work", path, str(options.threads)]
    command += ["--config", str(options.recipe), "--data.source", str(data), "--run", str(run)]
    command += ["--training.epochs", str(options.epochs), "--training.seed", str(seed)]
    command += ["--training.evaluate_every", str(options.epochs), "--training.device", "cpu"]
    command += ["--training.precision", "float32", "--loss.name", LOSSES[path]]
    command += ["--model.attention_dropout", str(options.attention_dropout)]
    command += SMALL_MODEL if options.small else []
    subprocess.run(command, check=True)
    return RunDir.open(run)


def main(arguments: list[str] | None = None) -> None:
    """Train by both ways with every seed, and publish the table."""
    parser = report.new_parser(__doc__)
    parser.add_argument("--data", default="ml-100k", help="parquet of a log, or ml-100k")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="of the trainings")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--attention_dropout", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1, help="of a training")
    options = report.parse(parser, arguments, data="small", epochs=1, seeds=[1, 2])
    with opened(options) as data:
        runs = [train(path, seed, data, options) for seed in options.seeds for path in PATHS]
        found = evaluate_runs(runs, "validation").evaluations
    publish(options, {name: one.per_user for name, one in found.items()})


def publish(options: argparse.Namespace, per_user: dict[str, dict[str, np.ndarray]]) -> None:
    """Write the table of both ways and of their difference."""

    def of(path: str, metric: str) -> np.ndarray[Any, Any]:
        """Return each seed's value of each user, [seeds, U]."""
        return np.stack([per_user[f"{path}-{seed}"][metric] for seed in options.seeds])

    rows, differences = [], ["the first less the second"]
    for path in PATHS:
        cells = [NAMES[path]]
        for metric in METRICS:
            means = of(path, metric).mean(1)
            cells.append(f"{means.mean():.4f} ({', '.join(f'{mean:.4f}' for mean in means)})")
        rows.append(cells)
    for metric in METRICS:
        ours, theirs = (of(path, metric).mean(0) for path in PATHS)
        difference, low, high = paired(ours, theirs)
        differences.append(f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]")
    title = f"Quality of the fast operations on {name_of(options)}, {options.epochs} epochs"
    charted = {NAMES[path]: list(of(path, "ndcg@10").mean(1)) for path in PATHS}
    notes = [
        f"Recipe {options.recipe.name} with attention dropout {options.attention_dropout}; "
        f"seeds {', '.join(map(str, options.seeds))} in brackets; "
        "validation part of leave-last-out, full ranking, seen items filtered, ties at their mean "
        "rank; the interval is a paired bootstrap over users, seeds averaged.",
    ]
    section = report.Report(
        report.section_name("quality", name_of(options), "cpu"),
        title,
        report.markdown(["", "NDCG@10 (seeds)", "recall@10 (seeds)"], [*rows, differences]),
        notes,
        report.bars(title, charted, "NDCG@10, validation"),
    )
    report.publish(section, "quality", options)


if __name__ == "__main__":
    main()
