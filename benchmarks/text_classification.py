"""python -m benchmarks.text_classification: nlp_cls as it comes, beside transformers' Trainer.

Both fine-tune the same checkpoint on the same 4,000 rows for the same epochs, at the same rate and
length limit; neither chooses among its epochs. Each run is a process with one thread; finished runs
are not repeated, so the command may be stopped and started again. What it prints:

- accuracy (several labels: micro F1) on dev and test together, mean over seeds, and the difference
  with its interval, rows drawn with replacement and both sides paired;
- TF-IDF with logistic regression on the same rows as a floor.

`--timing` measures something else: the training of each side on fewer rows, in turn, also with
Trainer's grouping by length and with its bf16, on an otherwise idle machine. Ours holds the start
of its head and the writing of its weights.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from benchmarks.text_sets import SETS, label_names, prepare, read_rows, targets
from idbert.inputs.tokenizers import open_tokenizer

LEARNING_RATE = 5e-5
RESAMPLES = 2000
LONG_TEXTS = {"chnsenticorp": 64}
"""Tokens beyond which a held-out text goes into a file of long ones too, for another study."""
OURS, THEIRS = "idbert", "transformers"
LAST_FILE = {OURS: "report.html", THEIRS: "seconds.json"}
TIMED = {
    "idbert": [],
    "idbert, float32": ["--training.precision=float32"],
    "transformers": [],
    "transformers, grouped by length": ["--group-by-length"],
    "transformers, bf16": ["--bf16"],
}


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of the four sets")
    parser.add_argument("--minilm", required=True, help="a folder: all-MiniLM-L6-v2")
    parser.add_argument("--me5", required=True, help="a folder: multilingual-e5-small")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-text"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument(
        "--timing", type=int, metavar="ROWS", help="time the training on so many rows"
    )
    parser.add_argument("--sides", help="of the timing, such as: idbert;transformers")
    parser.add_argument("--prepare", action="store_true", help="only write the rows of all sets")
    given = parser.parse_args()
    models = {"minilm": given.minilm, "me5": given.me5}
    names = given.sets.split(",")
    folders = {name: prepare(name, given.data, given.out) for name in names}
    if given.prepare:
        for name, folder in folders.items():
            write_long_texts(folder, models[SETS[name].model], LONG_TEXTS.get(name))
        return
    if given.timing:
        sides = given.sides.split(";") if given.sides else list(TIMED)
        print_timing(folders, models, given.timing, sides)
        return
    seeds = [int(seed) for seed in given.seeds.split(",")]
    commands = [
        command(side, name, folders[name], models[SETS[name].model], seed)
        for seed, name, side in product(seeds, names, (OURS, THEIRS))
        if not run_folder(folders[name], side, seed).joinpath(LAST_FILE[side]).exists()
    ]
    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(lambda one: execute(*one), commands))
    print_figures(folders, seeds)


def write_long_texts(folder: Path, model: str, max_length: int | None) -> None:
    """Write the held-out rows whose text is longer than `max_length` tokens."""
    if max_length is None:
        return
    rows = read_rows(folder / "held_out.jsonl")
    encoded = open_tokenizer(model)([row["text"] for row in rows])["input_ids"]
    lines = [
        json.dumps(row, ensure_ascii=False) + "\n"
        for row, ids in zip(rows, encoded, strict=True)
        if len(ids) > max_length
    ]
    (folder / f"longer-than-{max_length}.jsonl").write_text("".join(lines), encoding="utf-8")


def run_folder(folder: Path, side: str, seed: int) -> Path:
    """Return where a run of a side lies."""
    return folder / f"{side}-seed{seed}"


def command(side: str, name: str, folder: Path, model: str, seed: int) -> tuple[list[str], Path]:
    """Return the command of a run, and the run's folder."""
    out = run_folder(folder, side, seed)
    if side == THEIRS:
        arguments = ["-m", "benchmarks.text_baseline", "--set", name, "--folder", str(folder)]
        arguments += ["--model", model, "--seed", str(seed), "--out", str(out)]
        return [*arguments, "--learning-rate", str(LEARNING_RATE)], out
    return [*our_command(name, folder, model, seed), "--run", str(out)], out


def our_command(name: str, folder: Path, model: str, seed: int) -> list[str]:
    """Return nlp_cls with nothing set but what both sides share."""
    chosen = SETS[name]
    return [
        *("-m", "pipelines.nlp_cls", "--model", model),
        f"--data.train={folder / 'train.jsonl'}",
        f"--data.dev={folder / 'tune.jsonl'}",
        f"--data.test={folder / 'held_out.jsonl'}",
        f"--data.label_column={chosen.label_column}",
        f"--text.max_length={chosen.max_length}",
        f"--training.epochs={chosen.epochs}",
        f"--training.evaluate_every={chosen.epochs}",
        f"--training.learning_rate={LEARNING_RATE}",
        "--training.load_best=false",
        f"--training.seed={seed}",
    ]


def execute(arguments: list[str], out: Path) -> None:
    """Run a process with one thread; what it says goes to a log beside its folder."""
    start = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".log").open("w") as log:
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    print(f"{out}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def print_figures(folders: dict[str, Path], seeds: list[int]) -> None:
    """Print each set's figures, the difference, its interval, and the floor."""
    rows = {}
    for name, folder in folders.items():
        kind = SETS[name].kind
        names = label_names(folder, kind)
        held_out = read_rows(folder / "held_out.jsonl")
        truth = targets(held_out, names, kind)
        ours = [our_decisions(run_folder(folder, OURS, seed), names, kind) for seed in seeds]
        theirs = [their_decisions(run_folder(folder, THEIRS, seed), kind) for seed in seeds]
        difference, low, high = paired(ours, theirs, truth, kind)
        unit = "word" if SETS[name].model == "minilm" else "char"  # English, or Chinese
        floor = tf_idf(folder, names, held_out, kind, unit)
        rows[name] = {
            "rows": len(truth),
            OURS: spread([score(one, truth, kind) for one in ours]),
            THEIRS: spread([score(one, truth, kind) for one in theirs]),
            "difference": f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]",
            "TF-IDF": f"{score(floor, truth, kind):.2f}",
            "mean difference": difference,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    print(as_markdown(table.drop(columns="mean difference")))
    print(f"\nmean difference over {len(rows)} sets: {table['mean difference'].mean():+.2f} points")


def as_markdown(table: pd.DataFrame) -> str:
    """Return the table as Markdown, its index as the first column."""
    header = ["", *table.columns]
    lines = [header, ["---"] * len(header), *table.reset_index().to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def spread(values: list[float]) -> str:
    """Return the mean and the standard deviation over seeds."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"


def our_decisions(run: Path, names: list[str], kind: str) -> np.ndarray:
    """Return class numbers [N], or a matrix [N, C] of 0 and 1, of the held-out rows."""
    table = pd.read_parquet(run / "predictions-test.parquet")
    number = {name: place for place, name in enumerate(names)}
    if kind == "single":
        return table["prediction"].astype(str).map(number).to_numpy()
    hot = np.zeros((len(table), len(names)), int)
    for place, labels in enumerate(table["prediction"]):
        hot[place, [number[label] for label in labels]] = 1
    return hot


def their_decisions(run: Path, kind: str) -> np.ndarray:
    """Return the same of a run of transformers: the highest logit, or all above 0."""
    logits = np.load(run / "logits.npy")
    return logits.argmax(1) if kind == "single" else (logits > 0).astype(int)


def counts_of(decisions: np.ndarray, truth: np.ndarray, kind: str) -> np.ndarray:
    """Return what a score is made of, row by row: [N, 3] hits, decisions, labels."""
    if kind == "single":
        right = (decisions == truth).astype(float)
        return np.stack([right, np.ones_like(right), np.ones_like(right)], axis=1)
    return np.stack([(decisions * truth).sum(1), decisions.sum(1), truth.sum(1)], axis=1)


def f1(totals: np.ndarray) -> np.ndarray:
    """Return accuracy or micro F1 in points, of sums over rows [..., 3]."""
    return 200 * totals[..., 0] / np.maximum(totals[..., 1] + totals[..., 2], 1e-9)


def score(decisions: np.ndarray, truth: np.ndarray, kind: str) -> float:
    """Return accuracy, or micro F1 where a text has several labels, in points."""
    return float(f1(counts_of(decisions, truth, kind).sum(0)))


def paired(
    ours: list[np.ndarray], theirs: list[np.ndarray], truth: np.ndarray, kind: str
) -> tuple[float, float, float]:
    """Return the mean difference over seeds, and its 95 % interval over rows, both sides paired."""
    counts = [
        np.stack([counts_of(one, truth, kind) for one in side], axis=1) for side in (ours, theirs)
    ]
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(rng.integers(len(truth), size=len(truth)), minlength=len(truth))
        a, b = (f1(np.tensordot(drawn, side, 1)).mean() for side in counts)
        differences.append(a - b)
    whole = f1(counts[0].sum(0)).mean() - f1(counts[1].sum(0)).mean()
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(whole), float(low), float(high)


def tf_idf(
    folder: Path, names: list[str], held_out: list[dict], kind: str, unit: str
) -> np.ndarray:
    """Return the decisions of logistic regression on words or characters, 1 and 2 at a time."""
    train = read_rows(folder / "train.jsonl")
    vectorizer = TfidfVectorizer(analyzer=unit, ngram_range=(1, 2), sublinear_tf=True)
    train_x = vectorizer.fit_transform([row["text"] for row in train])
    held_out_x = vectorizer.transform([row["text"] for row in held_out])
    model = LogisticRegression(C=10, max_iter=1000)
    if kind == "multi":
        model = OneVsRestClassifier(model)
    return model.fit(train_x, targets(train, names, kind)).predict(held_out_x)


def print_timing(
    folders: dict[str, Path], models: dict[str, str], rows: int, sides: list[str]
) -> None:
    """Time the training on `rows` rows: all sides in turn, twice; print the shorter times."""
    table = {}
    for name, folder in folders.items():
        short = folder / f"first-{rows}"
        short.mkdir(exist_ok=True)
        lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()[:rows]
        (short / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (short / "held_out.jsonl").write_text(lines[0] + "\n", encoding="utf-8")
        model, best = models[SETS[name].model], dict.fromkeys(sides, np.inf)
        for repeat, side in product(range(2), sides):
            out = short / f"{side.replace(', ', '-').replace(' ', '-')}-{repeat}"
            shutil.rmtree(out, ignore_errors=True)
            best[side] = min(best[side], seconds_of(name, short, model, out, TIMED[side]))
        table[name] = {side: f"{best[side]:.1f} s" for side in sides} | {
            f"ratio to {side}": f"{best[OURS] / best[side]:.2f}" for side in sides if side != OURS
        }
        print(as_markdown(pd.DataFrame(table)), flush=True)


def seconds_of(name: str, folder: Path, model: str, out: Path, extra: list[str]) -> float:
    """Train in a process of its own; return the seconds that training took."""
    if out.name.startswith(OURS):
        arguments = our_command(name, folder, model, seed=1)
        arguments = [
            one for one in arguments if not one.startswith(("--data.dev=", "--data.test="))
        ]
        arguments += ["--data.dev_share=0", "--run", str(out)]
    else:
        arguments = ["-m", "benchmarks.text_baseline", "--set", name, "--folder", str(folder)]
        arguments += ["--model", model, "--seed", "1", "--out", str(out), "--time-alone"]
    done = subprocess.run(
        [sys.executable, *arguments, *extra], check=True, capture_output=True, text=True
    )
    if out.name.startswith(OURS):
        (seconds,) = re.findall(r"train: ([\d.]+) s", done.stderr)
        return float(seconds)
    return float(json.loads((out / "seconds.json").read_text(encoding="utf-8"))["seconds"])


if __name__ == "__main__":
    main()
