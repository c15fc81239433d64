"""Which parameters decay, and at what rate each learns."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from idbert.training.freezing import depths


def parameter_groups(
    model: nn.Module,
    weight_decay: float | int,
    *,
    learning_rate: float | int | None = None,
    encoder: nn.Module | None = None,
    layer_decay: float | int = 1.0,
    head_learning_rate: float | int | None = None,
    frozen: Sequence[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Split the parameters to train into AdamW's groups: with decay and without, by their rates.

    Matrices decay, embeddings among them; vectors do not: biases, the scales of LayerNorm, the
    layer weights of a fusion. Where the encoder's rate falls with depth, or its rate and the rest's
    differ, each rate has two groups; the group that comes first has the full rate.

    Args:
        model: Its parameters, each counted once however often it is used.
        weight_decay: Of matrices.
        learning_rate: The full rate; needed where rates differ.
        encoder: The part of the model that `layer_decay` acts in; all the rest is the head.
        layer_decay: The encoder's layer n from the top, which is 0, learns at
            learning_rate * layer_decay^n, its embeddings as the layer below the lowest.
        head_learning_rate: Of the head; None: learning_rate.
        frozen: Not trained now, but later, and so in the groups.

    Raises:
        ConfigError: the encoder's depth is unknown.
    """
    thawing = {id(parameter) for parameter in frozen}
    trained = [p for p in model.parameters() if p.requires_grad or id(p) in thawing]
    if layer_decay == 1 and head_learning_rate is None:
        return _by_decay(trained, weight_decay)
    assert encoder is not None and learning_rate is not None
    in_encoder = {id(parameter) for parameter in encoder.parameters()}
    head = [p for p in trained if id(p) not in in_encoder]
    head_rate = learning_rate if head_learning_rate is None else head_learning_rate
    groups = []
    for rate, ids in _rates(encoder, float(learning_rate), layer_decay):
        part = [p for p in trained if id(p) in ids]
        groups += _by_decay(part, weight_decay, rate)
    groups += _by_decay(head, weight_decay, float(head_rate))
    return [group for group in groups if group["params"]]


def _rates(
    encoder: nn.Module, learning_rate: float, layer_decay: float | int
) -> list[tuple[float, set[int]]]:
    """Return rates, the highest first, and the ids of the encoder's parameters that have them."""
    if layer_decay == 1:
        return [(learning_rate, {id(p) for p in encoder.parameters()})]
    top, *parts = depths(encoder)
    parts[0] = top + parts[0]
    return [
        (learning_rate * layer_decay**depth, {id(p) for p in part})
        for depth, part in enumerate(parts)
    ]


def _by_decay(
    parameters: Sequence[nn.Parameter], weight_decay: float | int, rate: float | None = None
) -> list[dict[str, Any]]:
    rates = {} if rate is None else {"lr": rate}
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay} | rates,
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0} | rates,
    ]
