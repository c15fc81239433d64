"""Every loss over labels with some options, and logits and targets for it."""

import pytest
import torch
from torch import Tensor

from idbert.nn.losses.labels import (
    LABEL_LOSSES,
    LabelLoss,
    LabelLossSettings,
    build_label_loss,
)

C, B = 5, 8
CASES = [
    ("bce", {}),
    ("bce", {"pos_weight": "balanced"}),
    ("concurrent_softmax", {}),
    ("concurrent_softmax", {"use_rates": False}),
    ("cross_entropy", {}),
    ("cross_entropy", {"class_weights": "balanced", "label_smoothing": 0.2}),
    ("focal", {}),
    ("focal", {"gamma": 0.5, "alpha": "balanced"}),
    ("focal_bce", {}),
    ("focal_bce", {"gamma": 0.5, "alpha": 0.25}),
    ("huber", {}),
    ("mse", {}),
    ("sampled_softmax", {"num_negatives": 3}),
    ("zlpr", {}),
]
every_loss = pytest.mark.parametrize(("name", "options"), CASES)


def build(name: str, options: dict | None = None, num_outputs: int = C) -> LabelLoss:
    kind = LABEL_LOSSES[name].kind
    num_outputs = 1 if kind == "number" else num_outputs
    return build_label_loss(LabelLossSettings(name, options or {}), kind, num_outputs)


def world(loss: LabelLoss, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits and targets for the loss; every label occurs, and one row bears none."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(B, loss.num_outputs, generator=generator)
    if loss.kind == "single":
        return logits, torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
    if loss.kind == "number":
        return logits, torch.randn(B, generator=generator)
    targets = (torch.rand(B, C, generator=generator) < 0.4).float()
    targets[0], targets[1] = 0.0, 1.0
    return logits, targets


def fitted(name: str, options: dict | None = None) -> LabelLoss:
    """Return the loss, fitted to its world; it is in evaluation, so that nothing is drawn."""
    loss = build(name, options)
    loss.fit_targets(world(loss)[1])
    return loss.eval()
