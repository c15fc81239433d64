"""Tiny texts whose label one word decides, and a tiny BERT that can learn them in seconds."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import BertConfig, BertModel

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DECIDING = ("good", "bad", "odd")
FILLERS = tuple(f"w{number}" for number in range(20))
WORDS = (*SPECIAL, *DECIDING, *FILLERS)

HIDDEN = 16


def bert_folder(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a BERT with random weights and a vocabulary of the world's words."""
    torch.manual_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": len(WORDS),
            "hidden_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 32,
            "initializer_range": 0.2,
        }
        | changes
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def texts(count: int, *, seed: int = 0, classes: Sequence[str] = DECIDING) -> pd.DataFrame:
    """Return texts of fillers around one deciding word, which is the label."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = classes[number % len(classes)]
        words = draw.choice(FILLERS, draw.integers(2, 8)).tolist()
        words.insert(int(draw.integers(0, len(words) + 1)), label)
        rows.append({"text": " ".join(words), "label": label})
    return pd.DataFrame(rows)


def several(count: int, *, seed: int = 0) -> pd.DataFrame:
    """Return texts with any number of the deciding words, all of which are labels."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        labels = [word for word in DECIDING if draw.random() < 0.5]
        words = draw.permutation([*draw.choice(FILLERS, draw.integers(2, 6)), *labels])
        rows.append({"text": " ".join(words), "labels": labels})
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as JSON lines."""
    lines = [json.dumps(row, ensure_ascii=False) for row in table.to_dict("records")]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
