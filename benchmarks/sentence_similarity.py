"""python -m benchmarks.sentence_similarity: towers on STS-B, and what their parts are worth.

Towers of all-MiniLM-L6-v2 are trained on stsb_en, of multilingual-e5-small on stsb_zh. Every run
has the same epochs, rate and batches and keeps its last weights. Each is a process with one thread;
finished runs are not repeated, so the command may be stopped and started again (a folder `--out`
holds runs of one rate, batch size and number of epochs). What it prints, all of it Spearman's
correlation of cosines with the scores, in points:

- the recipes (loss, pooling, fusion of layers) on dev at the first seed, which alone chooses one
  beside the plain one;
- the chosen recipe and the plain one (cosine_mse, mean pooling, last layer) on test: mean and
  deviation over seeds, and the difference with its interval, pairs of texts drawn with replacement
  and both sides paired; of each seed, and of the mean over seeds;
- the ablations: pooling under cosine_mse, and what the classifier of the loss `softmax` reads of
  two vectors. A classifier needs classes, and STS-B has scores: derived files hold the scores
  rounded to the whole classes 0 to 5 (halves upwards), and these towers are trained on them, then
  measured by their cosines against the scores themselves. Their vectors keep their length and the
  classifier has a rate of its own, since it starts from nothing. Beside them stand the figures of
  Reimers and Gurevych 2019, "Sentence-BERT", table 6: Spearman on the dev part of stsb_en, of
  BERT-base trained on scores of STS-B (pooling) or on classes of NLI (concatenation). Their
  encoder, and for concatenations their data, are others: the order is to be compared.

The ablations' dev figures are the ones to set beside the paper's; the choice uses no test figure.
"""

import argparse
import json
import math
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.text_classification import as_markdown, execute, spread
from idbert.evaluation.bootstrap import LEVEL, RESAMPLES
from idbert.files import written_aside
from nlp_tasks.match.metrics import similarity_metrics
from nlp_tasks.match.resampling import paired_spearman
from nlp_tasks.match.scoring import encode
from nlp_tasks.match.settings import TowerSettings
from nlp_tasks.match.towers import build_towers

MODEL_OF = {"stsb_en": "minilm", "stsb_zh": "me5"}
PARTS = {"train": "train", "dev": "validation", "test": "test"}
"""By the name of the file, what nlp_match calls the part."""
MAX_LENGTH = 128
HIGHEST_CLASS = 5

PLAIN = "cosine_mse, mean, last layer"
ANGLE = "--loss.name=AnglELoss"
COSENT = "--loss.name=cosent"
COSINE_MSE = "--loss.name=cosine_mse"
FUSION = "--towers.structure.fusion.name=softmax"
RECIPES: dict[str, tuple[str, ...]] = {
    PLAIN: (COSINE_MSE, "--towers.pooling=mean"),
    "cosine_mse, cls, last layer": (COSINE_MSE, "--towers.pooling=cls"),
    "cosine_mse, max, last layer": (COSINE_MSE, "--towers.pooling=max"),
    "cosine_mse, mean_max, last layer": (COSINE_MSE, "--towers.pooling=mean_max"),
    "cosine_mse, mean, softmax of layers": (COSINE_MSE, "--towers.pooling=mean", FUSION),
    "cosent, mean, last layer": (COSENT, "--towers.pooling=mean"),
    "AnglE, mean, last layer": (ANGLE, "--towers.pooling=mean"),
    "cosent, mean_max, last layer": (COSENT, "--towers.pooling=mean_max"),
    "cosent, mean, softmax of layers": (COSENT, "--towers.pooling=mean", FUSION),
}
"""What can be chosen, and how nlp_match is told."""

POOLINGS = {
    PLAIN: ("mean", 87.44),
    "cosine_mse, max, last layer": ("max", 69.92),
    "cosine_mse, cls, last layer": ("cls", 86.62),
}
CONCATENATIONS = {
    "uv": ("(u, v)", 66.04),
    "diff": ("(\\|u-v\\|)", 69.78),
    "uv_diff": ("(u, v, \\|u-v\\|)", 80.78),
}
"""How the table calls what is trained, and the paper's figure."""


@dataclass(frozen=True)
class Corpus:
    """A set of pairs, and how towers are trained on it."""

    name: str
    folder: Path
    model: str
    layers: int | None
    seeds: tuple[int, ...]
    shared: tuple[str, ...]
    head_rate: float
    is_ablated: bool

    def run(self, recipe: str, seed: int) -> Path:
        """Return where a run lies."""
        words = recipe.replace(", ", "-").replace(" ", "_")
        return self.folder / f"{words}-seed{seed}"

    def labels(self, part: str) -> np.ndarray:
        """Return the scores of a part, in the order of its file."""
        return np.array([row["label"] for row in read_rows(self.folder / f"{part}.jsonl")])

    def cosines(self, recipe: str, seed: int, part: str) -> np.ndarray:
        """Return what a run says of a part, in the order of its file."""
        file = self.run(recipe, seed) / f"predictions-{PARTS[part]}.parquet"
        table = pd.read_parquet(file).sort_values("row")
        return table["cosine"].to_numpy()

    def figures(self, recipe: str, part: str) -> list[float]:
        """Return Spearman's correlation of each seed's run."""
        truth = self.labels(part)
        return [spearman(self.cosines(recipe, seed, part), truth) for seed in self.seeds]


def main() -> None:
    """Run what is missing, then print the tables."""
    given = arguments()
    seeds = tuple(int(seed) for seed in given.seeds.split(","))
    corpora = [prepare(name, given, seeds) for name in given.sets.split(",")]
    todo = [
        (corpus, recipe, seed)
        for seed, corpus in product(seeds, corpora)
        for recipe in first_runs(corpus, seed)
    ]
    make(todo, given.processes)
    chosen = {corpus.name: choose(corpus) for corpus in corpora}
    make(
        [(corpus, chosen[corpus.name], seed) for seed, corpus in product(seeds, corpora)],
        given.processes,
    )
    for corpus in corpora:
        print_choice(corpus)
        print_comparison(corpus, chosen[corpus.name])
        if corpus.is_ablated:
            print_ablations(corpus)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of the two sets")
    parser.add_argument("--minilm", help="a folder: all-MiniLM-L6-v2, for stsb_en")
    parser.add_argument("--me5", help="a folder: multilingual-e5-small, for stsb_zh")
    parser.add_argument("--out", type=Path, default=Path("runs/sentence-similarity"))
    parser.add_argument("--sets", default=",".join(MODEL_OF))
    parser.add_argument("--ablate", default="stsb_en", help="sets with ablations; '' for none")
    parser.add_argument("--seeds", default="1,2,3", help="the first one chooses the recipe")
    parser.add_argument("--layers", type=int, help="keep so many of multilingual-e5-small's")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--classifier-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, help="of each part only so many, for a trial")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    for name in given.sets.split(","):
        if name not in MODEL_OF:
            parser.error(f"there is no set '{name}'; choose from {', '.join(MODEL_OF)}")
        if getattr(given, MODEL_OF[name]) is None:
            parser.error(f"{name} needs --{MODEL_OF[name]}")
    return given


def prepare(name: str, given: argparse.Namespace, seeds: tuple[int, ...]) -> Corpus:
    """Write the parts of a set, and beside them their scores as whole classes."""
    layers = given.layers if MODEL_OF[name] == "me5" else None
    words = [
        name,
        f"{layers}-layers" if layers else "",
        f"{given.rows}-rows" if given.rows else "",
    ]
    folder: Path = given.out / "-".join(filter(None, words))
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        rows = read_rows(given.data / name / f"{part}.jsonl")
        # The files are sorted by origin, and the first rows need not hold every class.
        rows = rows[:: max(1, len(rows) // (given.rows or len(rows)))][: given.rows]
        write_rows(rows, folder / f"{part}.jsonl")
        classes = [row | {"label": f"{math.floor(row['label'] + 0.5)}"} for row in rows]
        if any(not 0 <= int(row["label"]) <= HIGHEST_CLASS for row in classes):
            sys.exit(f"{given.data / name / part}.jsonl: a score is not from 0 to {HIGHEST_CLASS}")
        write_rows(classes, folder / f"{part}-classes.jsonl")
    shared = (
        f"--towers.max_length={MAX_LENGTH}",
        f"--batches.size={given.batch}",
        f"--training.epochs={given.epochs}",
        f"--training.evaluate_every={given.epochs}",
        f"--training.learning_rate={given.learning_rate}",
        "--training.load_best=false",
    )
    return Corpus(
        name,
        folder,
        getattr(given, MODEL_OF[name]),
        layers,
        seeds,
        shared,
        given.classifier_rate,
        is_ablated=name in given.ablate.split(","),
    )


def read_rows(file: Path) -> list[dict]:
    """Read JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(rows: list[dict], file: Path) -> None:
    """Write JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with written_aside(file) as aside:
        aside.write_text(text, encoding="utf-8")


def concatenated(concatenation: str) -> str:
    """Return the name of the recipe whose classifier reads a concatenation."""
    return f"softmax, {concatenation}"


def first_runs(corpus: Corpus, seed: int) -> list[str]:
    """Return the recipes that run at a seed, whichever is chosen."""
    recipes = [*RECIPES] if seed == corpus.seeds[0] else [PLAIN]
    if corpus.is_ablated:
        recipes += [recipe for recipe in POOLINGS if recipe not in recipes]
        recipes += [concatenated(concatenation) for concatenation in CONCATENATIONS]
    return recipes


def make(runs: list[tuple[Corpus, str, int]], processes: int) -> None:
    """Make the runs that are not there yet."""
    missing = [run for run in runs if not (run[0].run(*run[1:]) / "report.html").exists()]

    def one(run: tuple[Corpus, str, int]) -> None:
        corpus, recipe, seed = run
        out = corpus.run(recipe, seed)
        execute(command(corpus, recipe, seed), out)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # each three times the weights

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, missing))


def command(corpus: Corpus, recipe: str, seed: int) -> list[str]:
    """Return the command of a run."""
    of_classes = recipe not in RECIPES
    suffix = "-classes" if of_classes else ""
    settings = of_concatenation(corpus, recipe) if of_classes else RECIPES[recipe]
    return [
        *("-m", "pipelines.nlp_match", "--model", corpus.model),
        *("--run", str(corpus.run(recipe, seed))),
        *(f"--data.{part}={corpus.folder / f'{part}{suffix}.jsonl'}" for part in PARTS),
        f"--data.kind={'class' if of_classes else 'score'}",
        *settings,
        *of_layers(corpus, settings),
        *corpus.shared,
        f"--training.seed={seed}",
    ]


def of_concatenation(corpus: Corpus, recipe: str) -> tuple[str, ...]:
    """Return the settings of a classifier that reads a concatenation."""
    return (
        "--loss.name=softmax",
        f"--loss.options.concatenation={recipe.removeprefix(concatenated(''))}",
        "--towers.pooling=mean",
        "--towers.normalize=false",
        f"--training.head_learning_rate={corpus.head_rate}",
    )


def of_layers(corpus: Corpus, settings: tuple[str, ...]) -> list[str]:
    """Return the settings that read only the lowest layers.

    A fusion of layers does not let any be cut off, but need not read them.
    """
    if corpus.layers is None:
        return []
    if FUSION in settings:
        return [f"--towers.structure.fusion.layers={[*range(corpus.layers + 1)]}"]
    return [f"--towers.layers={corpus.layers}"]


def spearman(cosines: np.ndarray, truth: np.ndarray) -> float:
    """Return Spearman's correlation in points."""
    return 100 * similarity_metrics(cosines, truth, "score")["spearman"]


def choose(corpus: Corpus) -> str:
    """Return the recipe that is best on dev at the first seed, the plain one aside."""
    figures = dev_of_recipes(corpus)
    return max((recipe for recipe in RECIPES if recipe != PLAIN), key=lambda one: figures[one])


def dev_of_recipes(corpus: Corpus) -> dict[str, float]:
    """Return each recipe's figure on dev at the first seed."""
    truth, seed = corpus.labels("dev"), corpus.seeds[0]
    return {recipe: spearman(corpus.cosines(recipe, seed, "dev"), truth) for recipe in RECIPES}


def print_choice(corpus: Corpus) -> None:
    """Print what was chosen from."""
    figures = pd.Series(dev_of_recipes(corpus)).sort_values(ascending=False)
    column = f"dev, seed {corpus.seeds[0]}"
    print(f"## {corpus.name}\n\nRecipes (loss, pooling, fusion):\n")
    print(as_markdown(figures.map("{:.2f}".format).to_frame(column)), flush=True)


def print_comparison(corpus: Corpus, chosen: str) -> None:
    """Print the chosen recipe beside the plain one, and both beside no training."""
    ours, plain = (
        [corpus.cosines(recipe, seed, "test") for seed in corpus.seeds]
        for recipe in (chosen, PLAIN)
    )
    truth = corpus.labels("test")
    before = {part: untrained(corpus, part) for part in ("dev", "test")}
    rows = {
        "before training": {
            **{part: f"{before[part]:.2f}" for part in before},
            "against plain, test": "",
        }
    }
    for recipe, name in ((PLAIN, f"plain: {PLAIN}"), (chosen, f"chosen: {chosen}")):
        rows[name] = {part: spread(corpus.figures(recipe, part)) for part in before}
        rows[name]["against plain, test"] = ""
    rows[f"chosen: {chosen}"]["against plain, test"] = over_seeds(ours, plain, truth)
    print(f"\n{len(truth)} pairs of test, seeds {', '.join(map(str, corpus.seeds))}:\n")
    print(as_markdown(pd.DataFrame.from_dict(rows, orient="index")))
    by_seed = {
        f"seed {seed}": {"chosen against plain, test": show(*paired_spearman(a, b, truth))}
        for seed, a, b in zip(corpus.seeds, ours, plain, strict=True)
    }
    print(f"\n{as_markdown(pd.DataFrame.from_dict(by_seed, orient='index'))}", flush=True)


def over_seeds(ours: list[np.ndarray], plain: list[np.ndarray], truth: np.ndarray) -> str:
    """Return the mean difference over seeds, and its interval over pairs of texts."""
    sides = list(zip(ours, plain, strict=True))
    whole = np.mean([paired_spearman(a, b, truth, resamples=1).difference for a, b in sides])
    # One draw at a time: its number is its seed, so that all training seeds see the same pairs.
    drawn = [
        np.mean([paired_spearman(a, b, truth, resamples=1, seed=draw).low for a, b in sides])
        for draw in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return show(whole, low, high)


def show(difference: float, low: float, high: float) -> str:
    """Return a difference and its interval in points."""
    return f"{100 * difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def untrained(corpus: Corpus, part: str) -> float:
    """Return the figure of the model as it is: its own pooling, or the mean of its tokens."""
    file = corpus.folder / f"untrained-{part}.npy"
    if not file.exists():
        settings = TowerSettings(layers=corpus.layers, max_length=MAX_LENGTH)
        towers = build_towers(corpus.model, settings)
        rows = read_rows(corpus.folder / f"{part}.jsonl")
        a, b = (encode(towers, [row[text] for row in rows]) for text in ("text_a", "text_b"))
        cosines = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        with written_aside(file) as aside, aside.open("wb") as opened:
            np.save(opened, cosines.numpy())
    return spearman(np.load(file), corpus.labels(part))


def print_ablations(corpus: Corpus) -> None:
    """Print poolings and concatenations beside the paper's figures."""
    poolings = {name: (recipe, paper) for recipe, (name, paper) in POOLINGS.items()}
    classifiers = {
        name: (concatenated(concatenation), paper)
        for concatenation, (name, paper) in CONCATENATIONS.items()
    }
    published = "Reimers and Gurevych 2019, table 6 (BERT-base, dev of stsb_en)"
    for title, trained_on, ablation in (
        ("Pooling, cosine_mse on scores", "STS-B", poolings),
        ("Concatenation, softmax on whole classes, mean pooling", "NLI", classifiers),
    ):
        rows = {
            name: {
                "dev": spread(corpus.figures(recipe, "dev")),
                "test": spread(corpus.figures(recipe, "test")),
                f"{published}, trained on {trained_on}": f"{paper:.2f}",
            }
            for name, (recipe, paper) in ablation.items()
        }
        print(f"\n{title}:\n\n{as_markdown(pd.DataFrame.from_dict(rows, orient='index'))}")
    print(flush=True)


if __name__ == "__main__":
    main()
