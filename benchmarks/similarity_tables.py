"""What the benchmark on STS-B prints of its runs."""

import numpy as np
import pandas as pd

from benchmarks.similarity_recipes import (
    CONCATENATIONS,
    MAX_LENGTH,
    PLAIN,
    POOLINGS,
    RECIPES,
    Corpus,
    concatenated,
    read_rows,
    spearman,
)
from benchmarks.text_classification import as_markdown, spread
from idbert.evaluation.bootstrap import LEVEL, RESAMPLES
from idbert.files import written_aside
from nlp_tasks.match.resampling import paired_spearman
from nlp_tasks.match.scoring import encode
from nlp_tasks.match.settings import TowerSettings
from nlp_tasks.match.towers import build_towers


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
