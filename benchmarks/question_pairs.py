"""python -m benchmarks.question_pairs: do two questions ask the same? Three ways to train it.

All fine-tune the same checkpoint on the same drawn pairs (8,000), with the same batch size, epochs,
rate and length limit, and keep the last weights:

- towers: nlp_match, whose two vectors are compared; with each loss that is asked for;
- cross-encoder: nlp_cls, which reads both questions at once;
- transformers: Trainer with AutoModelForSequenceClassification, on pairs too.

Each run is a process with one thread; finished runs are not repeated, so the command may be stopped
and started again. What it prints is of the dev file, in points, mean and deviation over seeds:

- accuracy, each as it decides: the cross-encoders by the likelier label, the towers at the
  threshold that is best for 2,000 pairs that nobody was trained on;
- accuracy where all decide at such a threshold;
- AUC, which needs none;

and the differences with their intervals, pairs drawn with replacement, the same for both sides.

    python -m benchmarks.question_pairs --data SET --model MODEL --out OUT
"""

import argparse
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from benchmarks.text_classification import as_markdown, execute, spread
from benchmarks.text_sets import TUNING_ROWS, read_rows
from idbert.files import written_aside
from nlp_tasks.match.metrics import best_threshold

TOWERS, CROSS, THEIRS = "towers", "cross-encoder", "transformers"
COLUMNS = ("text_a", "text_b")
MODULES = {
    TOWERS: "pipelines.nlp_match",
    CROSS: "pipelines.nlp_cls",
    THEIRS: "benchmarks.pair_baseline",
}
LAST_FILE = {TOWERS: "report.html", CROSS: "report.html", THEIRS: "seconds.json"}
PARTS = {"held_out": ("test", "logits.npy"), "tune": ("validation", "logits-tune.npy")}
"""Which of our predictions, and which file of transformers' run, belong to a file of rows."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Side:
    """One way to train.

    Attributes:
        kind: towers, cross-encoder or transformers.
        loss: Of towers.
    """

    kind: str
    loss: str | None = None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.kind if self.loss is None else f"{self.kind}, {self.loss}"

    def folder(self, out: Path, seed: int) -> Path:
        """Return where a run lies."""
        return out / f"{self.name.replace(', ', '-')}-seed{seed}"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl and dev.jsonl")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/question-pairs"))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--rows", type=int, default=8000, help="training pairs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=64, help="of a pair; of each text alone")
    parser.add_argument("--losses", default="cosent", help="of towers; several: cosent,softmax")
    parser.add_argument(
        "--towers", nargs="*", default=[], metavar="NAME=VALUE", help="more settings of nlp_match"
    )
    parser.add_argument(
        "--cross", nargs="*", default=[], metavar="NAME=VALUE", help="more settings of nlp_cls"
    )
    given = parser.parse_args()
    names = ("rows", "epochs", "learning_rate", "batch", "max_length", "towers", "cross", "model")
    check_settings(given.out, {name: getattr(given, name) for name in names})
    prepare(given)
    sides = [Side(TOWERS, loss) for loss in given.losses.split(",")] + [Side(CROSS), Side(THEIRS)]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    # One seed of all sides after the other, so that a part of the tables can be had early.
    missing = [
        (side, seed)
        for seed, side in product(seeds, sides)
        if not (side.folder(given.out, seed) / LAST_FILE[side.kind]).exists()
    ]
    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(lambda one: make(given, *one), missing))
    print_tables(given.out, sides, seeds)


def check_settings(folder: Path, settings: dict[str, object]) -> None:
    """Note what all runs in a folder have in common; refuse to mix them with others."""
    file = folder / "settings.json"
    if not file.exists():
        with written_aside(file) as aside:
            aside.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    elif json.loads(file.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{file} is of runs with other settings. Give another --out.")


def prepare(given: argparse.Namespace) -> None:
    """Draw the training pairs and those that a threshold is found on, and write them once."""
    rows = read_rows(given.data / "train.jsonl")
    order = np.random.default_rng(0).permutation(len(rows))
    if len(rows) <= given.rows:
        raise SystemExit(f"{given.data} has {len(rows)} training pairs: none left for a threshold.")
    parts = {
        "train": [rows[place] for place in order[: given.rows]],
        "tune": [rows[place] for place in order[given.rows :][:TUNING_ROWS]],
        "held_out": read_rows(given.data / "dev.jsonl"),
    }
    for name, kept in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        file = given.out / f"{name}.jsonl"
        if not file.exists():
            with written_aside(file) as aside:
                aside.write_text(lines, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != lines:
            raise SystemExit(f"{file} holds pairs of other data. Give another --out.")


def make(given: argparse.Namespace, side: Side, seed: int) -> None:
    """Make a run; its checkpoints, each three times the weights, are not kept."""
    out = side.folder(given.out, seed)
    execute(command(given, side, seed), out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def command(given: argparse.Namespace, side: Side, seed: int) -> list[str]:
    """Return the arguments of a run's process."""
    out = side.folder(given.out, seed)
    if side.kind == THEIRS:
        return [
            *("-m", MODULES[THEIRS], "--folder", str(given.out), "--model", given.model),
            *("--out", str(out), "--seed", str(seed), "--epochs", str(given.epochs)),
            *("--learning-rate", str(given.learning_rate), "--batch", str(given.batch)),
            *("--max-length", str(given.max_length)),
        ]
    settings = {
        "data.train": given.out / "train.jsonl",
        "data.dev": given.out / "tune.jsonl",
        "data.test": given.out / "held_out.jsonl",
        "data.label_column": "label",
        "training.epochs": given.epochs,
        "training.evaluate_every": given.epochs,
        "training.learning_rate": given.learning_rate,
        "training.load_best": "false",
        "training.seed": seed,
    }
    if side.kind == TOWERS:
        settings |= {"data.kind": "binary", "loss.name": side.loss, "batches.size": given.batch}
        settings |= {"towers.max_length": given.max_length, "training.precision": "auto"}
        settings |= dict(zip(("data.first_column", "data.second_column"), COLUMNS, strict=True))
        more = given.towers
    else:
        settings |= {"data.text_columns": f"[{','.join(COLUMNS)}]", "data.pair": "true"}
        settings |= {"text.max_length": given.max_length, "batches.max_sequences": given.batch}
        settings |= {"batches.token_budget": given.batch * given.max_length}
        more = given.cross
    own = [f"--{name}={value}" for name, value in settings.items()]
    own += [f"--{setting}" for setting in more]
    return ["-m", MODULES[side.kind], "--model", given.model, *own, "--run", str(out)]


def scores_of(side: Side, run: Path, part: str) -> np.ndarray:
    """Return how sure a run is that the two texts of each pair are the same."""
    ours, theirs = PARTS[part]
    if side.kind == THEIRS:
        logits = np.load(run / theirs).astype(np.float64)
        return special.softmax(logits, axis=1)[:, 1]
    table = pd.read_parquet(run / f"predictions-{ours}.parquet").sort_values("row")
    if side.kind == TOWERS:
        return table["score"].to_numpy(np.float64)
    probability = table["probability"].to_numpy(np.float64)
    return np.where(table["prediction"].astype(str) == "1", probability, 1 - probability)


def labels_of(out: Path, part: str) -> np.ndarray:
    """Return the labels of a file of rows."""
    return np.array([int(row["label"]) for row in read_rows(out / f"{part}.jsonl")])


def figures_of(
    scores: np.ndarray, threshold: float, truth: np.ndarray, *, cut: float, counts_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Return accuracy and AUC, in points, where the pairs count as often as a row says."""
    totals = counts_RN.sum(axis=1)
    accuracies = [100 * (counts_RN @ ((scores >= at) == truth)) / totals for at in (cut, threshold)]
    return {
        "accuracy": accuracies[0],
        "accuracy at a held-out threshold": accuracies[1],
        "AUC": 100 * aucs(scores, truth, counts_RN),
    }


def aucs(scores: np.ndarray, truth: np.ndarray, counts_RN: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for each row of counts."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    sames, others = (
        np.add.reduceat(counts_RN[:, order] * (truth[order] == label), starts, axis=1)
        for label in (1, 0)
    )
    below = np.cumsum(others, axis=1) - others / 2
    return (sames * below).sum(axis=1) / (sames.sum(axis=1) * others.sum(axis=1))


def print_tables(out: Path, sides: list[Side], seeds: list[int]) -> None:
    """Print each side's figures, and the differences between sides with their intervals."""
    truth, tuning_truth = labels_of(out, "held_out"), labels_of(out, "tune")
    size = len(truth)
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(RESAMPLES)]
    counts_RN = np.stack([np.ones(size, np.int64), *drawn])  # the first row: each pair once
    figures: dict[str, dict[str, np.ndarray]] = {}
    for side in sides:
        runs = []
        for seed in seeds:
            run = side.folder(out, seed)
            threshold = best_threshold(scores_of(side, run, "tune"), tuning_truth)
            cut = threshold if side.kind == TOWERS else 0.5
            scores = scores_of(side, run, "held_out")
            runs.append(figures_of(scores, threshold, truth, cut=cut, counts_RN=counts_RN))
        figures[side.name] = {metric: np.stack([run[metric] for run in runs]) for metric in runs[0]}
    rows = {
        name: {metric: spread(values[:, 0].tolist()) for metric, values in by_metric.items()}
        for name, by_metric in figures.items()
    }
    majority = f"{100 * max(truth.mean(), 1 - truth.mean()):.2f}"
    rows["the more frequent label"] = dict(
        zip(rows[sides[0].name], (majority, majority, "50.00"), strict=True)
    )
    print(as_markdown(pd.DataFrame.from_dict(rows, orient="index")))
    differences = {
        f"{a} - {b}": {
            metric: difference(figures[a][metric], figures[b][metric]) for metric in figures[a]
        }
        for a, b in combinations(figures, 2)
    }
    print(f"\n{as_markdown(pd.DataFrame.from_dict(differences, orient='index'))}")
    trained = len(labels_of(out, "train"))
    print(
        f"\n{trained:,} training pairs, {len(tuning_truth):,} for thresholds, {size:,} of dev; "
        f"seeds {seeds}; intervals of 95 %, pairs drawn {RESAMPLES:,} times"
    )


def difference(a: np.ndarray, b: np.ndarray) -> str:
    """Return the mean difference over seeds, and its 95 % interval over pairs."""
    whole, *drawn = (a - b).mean(axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{whole:+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
