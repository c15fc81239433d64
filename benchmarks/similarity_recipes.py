"""Recipes of the benchmark on STS-B, and the runs that they became."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from idbert.files import written_aside
from nlp_tasks.match.metrics import similarity_metrics

PARTS = {"train": "train", "dev": "validation", "test": "test"}
"""By the name of the file, what nlp_match calls the part."""
MAX_LENGTH = 128

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


def spearman(cosines: np.ndarray, truth: np.ndarray) -> float:
    """Return Spearman's correlation in points."""
    return 100 * similarity_metrics(cosines, truth, "score")["spearman"]
