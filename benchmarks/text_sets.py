"""The four sets of the text-classification benchmark, cut the same way for everybody.

Of each set 4,000 training rows are drawn with a fixed seed. Rows of the training part that were not
drawn serve for choosing a recipe (`tune`); dev and test together are read for the figures alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TRAINING_ROWS = 4000
TUNING_ROWS = 2000


@dataclass(frozen=True)
class TextSet:
    """One set: its files, what its labels are, and how long it is trained.

    Attributes:
        folder: Below the folder of all sets.
        train: The file that training rows are drawn from.
        held_out: The files that figures are made on.
        kind: single or multi.
        model: minilm or me5; see the command's arguments.
        max_length: Tokens of a text, special ones included.
        epochs: Passes over the training rows.
    """

    folder: str
    train: str
    held_out: tuple[str, ...]
    kind: str
    model: str
    max_length: int
    epochs: int

    @property
    def label_column(self) -> str:
        """The column of the labels in the files."""
        return "labels" if self.kind == "multi" else "label"


SETS = {
    "sst2": TextSet("sst2", "train", ("dev", "test"), "single", "minilm", 128, 3),
    "goemotions": TextSet("goemotions", "train", ("dev", "test"), "multi", "minilm", 128, 3),
    "thucnews10": TextSet("thucnews10", "train", ("dev",), "single", "me5", 128, 2),
    "chnsenticorp": TextSet(
        "chnsenticorp", "train_clean", ("dev", "test"), "single", "me5", 128, 2
    ),
}


def prepare(name: str, data: Path, out: Path) -> Path:
    """Write train.jsonl, tune.jsonl and held_out.jsonl of a set, once; return their folder."""
    chosen, folder = SETS[name], out / name
    rows = read_rows(data / chosen.folder / f"{chosen.train}.jsonl")
    order = np.random.default_rng(0).permutation(len(rows))
    parts = {
        "train": [rows[place] for place in order[:TRAINING_ROWS]],
        "tune": [rows[place] for place in order[TRAINING_ROWS:][:TUNING_ROWS]],
        "held_out": [
            row
            for part in chosen.held_out
            for row in read_rows(data / chosen.folder / f"{part}.jsonl")
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for part, kept in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        if not (folder / f"{part}.jsonl").exists():
            (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def read_rows(path: Path) -> list[dict]:
    """Read a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def label_names(folder: Path, kind: str) -> list[str]:
    """Return the labels of the training rows, sorted."""
    rows = read_rows(folder / "train.jsonl")
    if kind == "multi":
        return sorted({label for row in rows for label in row["labels"]})
    return sorted({str(row["label"]) for row in rows})


def targets(rows: list[dict], names: list[str], kind: str) -> np.ndarray:
    """Return class numbers [N], or for several labels a multi-hot matrix [N, C]."""
    number = {name: place for place, name in enumerate(names)}
    if kind == "single":
        return np.array([number[str(row["label"])] for row in rows])
    hot = np.zeros((len(rows), len(names)), np.float32)
    for place, row in enumerate(rows):
        for label in row["labels"]:
            if label in number:
                hot[place, number[label]] = 1
    return hot
