"""A small classifier and its batches."""

from pathlib import Path

import torch
from torch import Tensor

from idbert.nn.encoder import Encoder
from nlp_tasks.cls.model import TextClassifier

TARGETS = {
    "single": torch.tensor([0, 2, 1, 1]),
    "multi": torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]),
    "number": torch.tensor([1.5, -2.0, 0.25, 3.0]),
}


KINDS = tuple(TARGETS)


def build(bert: Path | Encoder, kind: str = "single", **settings: object) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier.build(
        bert, kind=kind, num_outputs=1 if kind == "number" else 3, **settings
    )


def batch(kind: str = "single", *, length: int = 7) -> dict[str, Tensor]:
    """Four texts of 7 down to 1 tokens."""
    torch.manual_seed(1)
    lengths = torch.tensor([7, 5, 2, 1])
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(5, 20, (4, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": TARGETS[kind]}
