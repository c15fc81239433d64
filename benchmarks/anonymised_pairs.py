"""python -m benchmarks.anonymised_pairs: what a start by frequency rank is worth on oppo_anon.

The words of these pairs of questions are numbers. A 4-layer encoder of them is made in several
ways, trained on by masked words and labels where the way says so, and fine-tuned as a classifier of
pairs with the same settings each time:

- rank + MLM: vectors by frequency rank and the first 4 layers of a pretrained encoder;
- random + MLM: the same shape with random weights;
- neither: the same shape with random weights, fine-tuned at once.

`--all` adds "layers + MLM" (pretrained layers under random vectors) and "rank" (no masked words).
Masked words are trained on the training pairs and the unlabelled ones; the labels of the training
pairs are tokens, those of dev are seen by nobody. Each run is a process with one thread; finished
runs are not repeated, so the command may be stopped and started again. What it prints is the AUC
(in points) on dev: of the classifier, mean and deviation over seeds, and its difference to "random
+ MLM" with the interval of pairs drawn with replacement; and of the masked model itself, which
answers by the token of the label.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.question_pairs import check_settings
from benchmarks.text_classification import as_markdown, spread
from idbert.files import written_aside
from idbert.nn.progress_bars import without_progress_bars
from idbert.nn.word_config import WordEncoderSettings
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.pretrain.corpus import CorpusSettings, read_corpus
from nlp_tasks.pretrain.start import WordStart
from nlp_tasks.pretrain.vocabulary import VocabularySettings
from pipelines.frequency_start import start_word_model

RANK, RANDOM, NEITHER = "rank + MLM", "random + MLM", "neither"
LAYERS_ALONE, RANK_ALONE = "layers + MLM", "rank"
WAYS = (RANK, RANDOM, NEITHER)
MORE_WAYS = (LAYERS_ALONE, RANK_ALONE)
WITHOUT_MLM = (NEITHER, RANK_ALONE)
COLUMNS = ("text_a", "text_b")
MIN_FREQUENCY = 3
MAX_LENGTH = 64
RESAMPLES = 1000


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder oppo_anon")
    parser.add_argument("--model", required=True, help="a folder: multilingual-e5-small")
    parser.add_argument("--reference", required=True, help="Chinese pairs, such as afqmc/train")
    parser.add_argument("--out", type=Path, default=Path("runs/anonymised-pairs"))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3, help="of masked words")
    parser.add_argument("--rate", type=float, default=3e-4, help="of masked words")
    parser.add_argument("--tuning-epochs", type=int, default=3)
    parser.add_argument("--tuning-rate", type=float, default=1e-4)
    parser.add_argument("--unlabelled", type=int, help="take so many unlabelled pairs, not all")
    parser.add_argument("--all", action="store_true", help="add the two further ways")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    ways = WAYS + MORE_WAYS if given.all else WAYS
    names = ("model", "reference", "layers", "epochs", "rate", "tuning_epochs", "tuning_rate")
    settings = {name: getattr(given, name) for name in names}
    check_settings(given.out, settings | {"unlabelled": given.unlabelled})
    corpus = write_corpus(given)
    # One seed of all ways after the other, so that a part of the table can be read early.
    chains = [(way, seed) for seed in seeds for way in ways]
    for way, seed in chains:  # before the threads, which share one generator of random numbers
        if way in WITHOUT_MLM:
            save_untrained(given, corpus, way, seed)
    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(lambda one: run_chain(given, corpus, *one), chains))
    print_table(given, ways, seeds)


def write_corpus(given: argparse.Namespace) -> Path:
    """Write the pairs that masked words are trained on, once; return their file."""
    name = "all" if given.unlabelled is None else given.unlabelled
    file: Path = given.out / f"pairs-{name}.jsonl"
    if not file.exists():
        lines = (given.data / "unlabeled.jsonl").read_text(encoding="utf-8").splitlines()
        labelled = (given.data / "train.jsonl").read_text(encoding="utf-8").splitlines()
        with written_aside(file) as aside:
            aside.write_text("\n".join(labelled + lines[: given.unlabelled]) + "\n", "utf-8")
    return file


def folder_of(given: argparse.Namespace, way: str, seed: int) -> Path:
    """Return where the encoder of a way lies."""
    out: Path = given.out
    return out / f"{way.replace(' + ', '-').lower()}-seed{seed}"


def tuned(encoder: Path) -> Path:
    """Return where the classifier on an encoder lies."""
    return encoder.with_name(f"{encoder.name}-tuned")


def run_chain(given: argparse.Namespace, corpus: Path, way: str, seed: int) -> None:
    """Make an encoder, and a classifier on it, unless they are there."""
    encoder = folder_of(given, way, seed)
    if way not in WITHOUT_MLM and not (encoder / "report.html").exists():
        execute(pretraining(given, corpus, way, seed, encoder), encoder)
    if not (tuned(encoder) / "report.html").exists():
        execute(tuning(given, seed, encoder), tuned(encoder))


def start_of(given: argparse.Namespace, way: str) -> dict[str, object]:
    """Return the settings of `start` by their names."""
    if way in (RANDOM, NEITHER):
        return {}
    start: dict[str, object] = {"model": given.model, "layers": given.layers}
    if way == LAYERS_ALONE:
        return start | {"words": "random"}
    return start | {"reference": given.reference, "reference_columns": COLUMNS}


def shape_of(given: argparse.Namespace) -> dict[str, int]:
    """Return the architecture of the pretrained encoder, with fewer layers."""
    theirs = json.loads((Path(given.model) / "config.json").read_text(encoding="utf-8"))
    return {
        "num_layers": given.layers,
        "hidden_size": theirs["hidden_size"],
        "num_heads": theirs["num_attention_heads"],
        "intermediate_size": theirs["intermediate_size"],
    }


def save_untrained(given: argparse.Namespace, corpus: Path, way: str, seed: int) -> None:
    """Write an encoder, and its tokenizer, as they are before any training; once."""
    folder = folder_of(given, way, seed)
    if (folder / "config.json").exists():
        return
    settings = CorpusSettings(train=str(corpus), text_columns=COLUMNS, pair=True, dev_share=0)
    texts = read_corpus(settings).training_texts
    vocabulary = VocabularySettings(kind="words", min_frequency=MIN_FREQUENCY)
    tokenizer = vocabulary.train(texts)
    torch.manual_seed(seed)
    model = start_word_model(
        WordStart(**start_of(given, way)),
        texts,
        tokenizer,
        WordEncoderSettings(**shape_of(given)),
        PretrainedSettings(),
    )
    with written_aside(folder) as aside, without_progress_bars():
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def pretraining(
    given: argparse.Namespace, corpus: Path, way: str, seed: int, folder: Path
) -> list[str]:
    """Return the command that trains on masked words and labels."""
    start = {f"start.{name}": value for name, value in start_of(given, way).items()}
    shape = {} if start else {f"architecture.{n}": v for n, v in shape_of(given).items()}
    columns = f"[{','.join(COLUMNS)}]"
    if "start.reference_columns" in start:
        start["start.reference_columns"] = columns
    return [
        *("-m", "pipelines.nlp_pretrain", "--run", str(folder)),
        *(f"--data.train={corpus}", f"--data.dev={given.data / 'dev.jsonl'}"),
        *(f"--data.text_columns={columns}", "--data.pair=true", "--data.label_column=label"),
        *("--vocabulary.kind=words", f"--vocabulary.min_frequency={MIN_FREQUENCY}"),
        *(f"--{name}={value}" for name, value in (start | shape).items()),
        *(f"--text.max_length={MAX_LENGTH}", f"--training.epochs={given.epochs}"),
        # Dev chooses nothing: it is looked at once, behind the last step.
        *(f"--training.evaluate_every={given.epochs}", "--training.load_best=false"),
        *(f"--training.learning_rate={given.rate}", f"--training.seed={seed}"),
        "--training.checkpoint_every_steps=200",
    ]


def tuning(given: argparse.Namespace, seed: int, encoder: Path) -> list[str]:
    """Return the command that fine-tunes a classifier of pairs."""
    return [
        *("-m", "pipelines.nlp_cls", "--run", str(tuned(encoder)), "--model", str(encoder)),
        *(f"--data.train={given.data / 'train.jsonl'}", "--data.dev_share=0"),
        *(f"--data.test={given.data / 'dev.jsonl'}", "--data.pair=true"),
        *(f"--data.text_columns=[{','.join(COLUMNS)}]", f"--text.max_length={MAX_LENGTH}"),
        *(f"--training.epochs={given.tuning_epochs}", f"--training.seed={seed}"),
        f"--training.learning_rate={given.tuning_rate}",
    ]


def execute(arguments: list[str], out: Path) -> None:
    """Run a process with one thread; what it says goes to a log beside its folder."""
    start = time.monotonic()
    with out.with_name(f"{out.name}.log").open("a") as log:
        subprocess.run(
            [sys.executable, *arguments],
            check=True,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    print(f"{out}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def probabilities(encoder: Path) -> np.ndarray:
    """Return the probability of label 1 of every pair of dev."""
    table = pd.read_parquet(tuned(encoder) / "predictions-test.parquet")
    is_one = table["prediction"].astype(str) == "1"
    return np.where(is_one, table["probability"], 1 - table["probability"])


def print_table(given: argparse.Namespace, ways: tuple[str, ...], seeds: list[int]) -> None:
    """Print the AUC of each way, and its difference to random + MLM."""
    lines = (given.data / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    truth = np.array([json.loads(line)["label"] for line in lines])
    scores = {
        way: np.stack([probabilities(folder_of(given, way, seed)) for seed in seeds])
        for way in ways
    }
    rows = {}
    for way in ways:
        aucs = [100 * roc_auc_score(truth, one) for one in scores[way]]
        rows[way] = {
            "AUC": spread(aucs),
            f"against {RANDOM}": "" if way == RANDOM else paired(scores, way, truth),
            "by the label token": "" if way in WITHOUT_MLM else by_label_token(given, way, seeds),
        }
    print(as_markdown(pd.DataFrame.from_dict(rows, orient="index")))
    print(f"\n{len(truth)} pairs of dev, {100 * truth.mean():.1f} % of them 1; seeds {seeds}")


def by_label_token(given: argparse.Namespace, way: str, seeds: list[int]) -> str:
    """Return the AUC of the masked model, which needs no classifier."""
    found = []
    for seed in seeds:
        file = folder_of(given, way, seed) / "metrics.json"
        figures = json.loads(file.read_text(encoding="utf-8"))["validation"]
        found.append(100 * figures["label_auc"])
    return spread(found)


def paired(scores: dict[str, np.ndarray], way: str, truth: np.ndarray) -> str:
    """Return the mean difference over seeds, and its 95 % interval over pairs."""

    def difference(drawn: np.ndarray) -> float:
        means = [
            np.mean([roc_auc_score(truth[drawn], one[drawn]) for one in scores[side]])
            for side in (way, RANDOM)
        ]
        return float(100 * (means[0] - means[1]))

    rng = np.random.default_rng(0)
    drawn = [difference(rng.integers(len(truth), size=len(truth))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{difference(np.arange(len(truth))):+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()
