"""Which parameters decay."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters into AdamW's groups: with decay, and without.

    Matrices decay, embeddings among them; vectors do not: biases, the scales of LayerNorm, the
    layer weights of a fusion.

    Args:
        model: Its parameters, each counted once however often it is used.
        weight_decay: For the first group.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
