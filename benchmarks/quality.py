"""Do the faster operations of a training cost quality, after as many epochs?

    python -m benchmarks.quality --data ml-1m.parquet --write

BERT4Rec by its recipe, trained by idbert's own operations (products by oneDNN, dropout by bits,
attention by batched products, the last layer at targets alone, a chunked softmax) and by torch's
own in float32 (`quality_work.plain_operations`, all scores at once). The same masks, batches and
first weights; dropout draws other numbers. Shares of attention are dropped too, as all peers do.
NDCG@10 and recall@10 of each user of the validation part, averaged over seeds, then a paired
bootstrap over users. With `--processes 2` idbert's training is also shared out among two processes
by torchrun, the same batches of all together; with `--precision medium` it is trained in that
precision too. Finished trainings are kept in --out and not made again.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.peers import name_of, opened
from idbert.evaluation.bootstrap import paired
from idbert.run_dir import RunDir
from idbert.training.arguments import PRECISIONS
from pipelines.reporting import evaluate_runs

METRICS = ("ndcg@10", "recall@10")
OURS, PLAIN, SHARED, ROUNDED = "idbert", "torch", "shared", "rounded"
LOSSES = {"idbert": "chunked", "torch": "full"}
RECIPE = Path("pipelines/recipes/ml-1m-bert4rec.yaml")
SMALL_MODEL = "--model.hidden_size 8 --model.num_layers 1 --sequences.max_length 10".split()


def train(way: str, seed: int, data: Path, options: argparse.Namespace) -> RunDir:
    """Train in one way with one seed, or open what an earlier call has trained."""
    run = options.out / name_of_run(way, seed, options)
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    command = command_of(way, seed, run, data, options)
    subprocess.run(command, check=True, env=os.environ | threads)
    return RunDir.open(run)


def name_of_run(way: str, seed: int, options: argparse.Namespace) -> str:
    """Return what the folder of a training is called."""
    form = {SHARED: f"{way}-{options.processes}", ROUNDED: options.precision}
    return f"{form.get(way, way)}-{seed}"


def command_of(
    way: str, seed: int, run: Path, data: Path, options: argparse.Namespace
) -> list[str]:
    """Return the command of one training."""
    path = PLAIN if way == PLAIN else OURS
    command = [sys.executable, "-m"]
    if way == SHARED:
        command += ["torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={options.processes}", "-m", "--", "pipelines.rec_pretrain"]
    else:
        command += ["benchmarks.quality_work", path, str(options.threads)]
    command += ["--config", str(options.recipe), "--data.source", str(data), "--run", str(run)]
    command += ["--training.epochs", str(options.epochs), "--training.seed", str(seed)]
    command += ["--training.evaluate_every", str(options.epochs), "--training.device", "cpu"]
    precision = options.precision if way == ROUNDED else "float32"
    command += ["--training.precision", precision, "--loss.name", LOSSES[path]]
    command += ["--model.attention_dropout", str(options.attention_dropout)]
    return command + (SMALL_MODEL if options.small else [])


def main(arguments: list[str] | None = None) -> None:
    """Train in all ways with every seed, and publish the table."""
    parser = report.new_parser(__doc__)
    parser.add_argument("--data", default="ml-100k", help="parquet of a log, or ml-100k")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="of the trainings")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--attention_dropout", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1, help="of a training's process")
    parser.add_argument("--processes", type=int, default=1, help="of a third way, if more than 1")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of a way more")
    options = report.parse(parser, arguments, data="small", epochs=1, seeds=[1, 2])
    ways = [OURS, PLAIN]
    ways += [SHARED] if options.processes > 1 else []
    ways += [ROUNDED] if options.precision != "float32" else []
    with opened(options) as data:
        runs = [train(way, seed, data, options) for seed in options.seeds for way in ways]
        found = evaluate_runs(runs, "validation").evaluations
    publish(options, ways, {name: one.per_user for name, one in found.items()})


def publish(
    options: argparse.Namespace, ways: list[str], per_user: dict[str, dict[str, np.ndarray]]
) -> None:
    """Write the table of all ways, and of idbert's differences to the others."""
    names = {OURS: "idbert", PLAIN: "torch's operations, float32"}
    names |= {
        SHARED: f"idbert, {options.processes} processes",
        ROUNDED: f"idbert, {options.precision}",
    }

    def of(way: str, metric: str) -> np.ndarray[Any, Any]:
        """Return each seed's value of each user, [seeds, U]."""
        return np.stack(
            [per_user[name_of_run(way, seed, options)][metric] for seed in options.seeds]
        )

    rows = []
    for way in ways:
        cells = [names[way]]
        for metric in METRICS:
            means = of(way, metric).mean(1)
            cells.append(f"{means.mean():.4f} ({', '.join(f'{mean:.4f}' for mean in means)})")
        rows.append(cells)
    for way in ways[1:]:
        differences = [f"idbert less {names[way]}"]
        for metric in METRICS:
            difference, low, high = paired(*(of(one, metric).mean(0) for one in (OURS, way)))
            differences.append(f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]")
        rows.append(differences)
    title = f"Quality of the fast operations on {name_of(options)}, {options.epochs} epochs"
    charted = {names[way]: list(of(way, "ndcg@10").mean(1)) for way in ways}
    notes = [
        f"Recipe {options.recipe.name} with attention dropout {options.attention_dropout}; "
        f"seeds {', '.join(map(str, options.seeds))} in brackets; "
        "validation part of leave-last-out, full ranking, seen items filtered, ties at their mean "
        "rank; the interval is a paired bootstrap over users, seeds averaged.",
    ]
    section = report.Report(
        report.section_name("quality", name_of(options), "cpu"),
        title,
        report.markdown(["", "NDCG@10 (seeds)", "recall@10 (seeds)"], rows),
        notes,
        report.bars(title, charted, "NDCG@10, validation"),
    )
    report.publish(section, "quality", options)


if __name__ == "__main__":
    main()
