"""python -m benchmarks.sentence_similarity: towers on STS-B, and what their parts are worth.

Towers of all-MiniLM-L6-v2 are trained on stsb_en, of multilingual-e5-small on stsb_zh. Every run
has the same epochs, rate and batches, computes in bfloat16 where the processor does, and keeps its
last weights. Each is a process with one thread; finished runs are not repeated, so the command may
be stopped and started again; other rates, batch sizes or epochs need another `--out`. What it
prints, all of it Spearman's correlation of cosines with the scores, in points:

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
import math
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from benchmarks.question_pairs import check_settings
from benchmarks.similarity_recipes import (
    CONCATENATIONS,
    MAX_LENGTH,
    PARTS,
    PLAIN,
    POOLINGS,
    RECIPES,
    Corpus,
    concatenated,
    read_rows,
    write_rows,
)
from benchmarks.similarity_tables import choose, print_ablations, print_choice, print_comparison
from benchmarks.text_classification import execute

MODEL_OF = {"stsb_en": "minilm", "stsb_zh": "me5"}
HIGHEST_CLASS = 5


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
        "--training.precision=auto",
    )
    model = getattr(given, MODEL_OF[name])
    settings = {"model": model, "shared": list(shared), "classifier_rate": given.classifier_rate}
    check_settings(folder, settings)
    return Corpus(
        name,
        folder,
        model,
        layers,
        seeds,
        shared,
        given.classifier_rate,
        is_ablated=name in given.ablate.split(","),
    )


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
        *([] if corpus.layers is None else [f"--towers.layers={corpus.layers}"]),
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


if __name__ == "__main__":
    main()
