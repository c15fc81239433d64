"""Layer fusion: the hidden states of an encoder's layers become one vector a token.

Fusions are found by name; one more is a class and a registration:

    @FUSIONS.register("max")
    class MaxFusion(LayerFusion): ...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idbert.errors import ConfigError, ShapeError
from idbert.nn.registry import Registry


@dataclass(frozen=True)
class FusionSettings:
    """Which layers of the encoder are read, and how they are joined."""

    name: str = "last"
    """last (the top layer), mean (of the layers), softmax (one learned weight a layer),
    gate (learned weights, different for every token)."""

    layers: tuple[int, ...] | None = None
    """Layers to join: 0 is the embedding output, 1 the first layer, -1 the last. Default: all."""

    def __post_init__(self) -> None:
        fusion = FUSIONS[self.name]
        if self.layers is None:
            return
        if not fusion.needs_all_states:
            raise ConfigError(
                f"The fusion '{self.name}' reads no layer but the last, so layers={self.layers} "
                "cannot act. Leave layers out, or choose another fusion."
            )
        if len(self.layers) < fusion.min_layers:
            raise ConfigError(
                f"The fusion '{self.name}' needs at least {fusion.min_layers} layers, "
                f"not layers={self.layers}."
            )


class LayerFusion(nn.Module):
    """Base of all fusions: chooses the layers; `forward` of the subclass joins them.

    Args:
        num_states: K, the embedding output plus every layer.
        hidden_size: D, the width of the hidden states.
        layers: Indices into the K states, negative ones from the end; None for all.

    Raises:
        ConfigError: a layer is out of range or named twice.
    """

    needs_all_states: ClassVar[bool] = True
    """False for a fusion that is called with the last state alone."""

    min_layers: ClassVar[int] = 1
    """The fewest layers with which the fusion's own parameters can act."""

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.num_states = num_states
        self.hidden_size = hidden_size
        self.layers = resolve_layers(layers, num_states)

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the fused states; `hidden_KBLD` holds the embedding output and every layer."""
        raise NotImplementedError

    def weights(self) -> Float[Tensor, "K"] | None:
        """Return the learned weights of `layers`; None where a layer has no weight of its own."""
        return None

    def _chosen(
        self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]
    ) -> list[Float[Tensor, "B L D"]]:
        if len(hidden_KBLD) != self.num_states:
            raise ShapeError(
                f"{type(self).__name__} was built for {self.num_states} hidden states (the "
                f"embedding output and every layer) and received {len(hidden_KBLD)}."
            )
        return [hidden_KBLD[layer] for layer in self.layers]


FUSIONS: Registry[type[LayerFusion]] = Registry("fusion")


def resolve_layers(layers: Sequence[int] | None, num_states: int) -> tuple[int, ...]:
    """Return the layers' indices from 0, in ascending order; all of them for None.

    Args:
        layers: Indices into the hidden states, negative ones from the end.
        num_states: K, the embedding output plus every layer.

    Raises:
        ConfigError: a layer is out of range or named twice.
    """
    if layers is None:
        return tuple(range(num_states))
    outside = [layer for layer in layers if not -num_states <= layer < num_states]
    if outside:
        raise ConfigError(
            f"Fusion layers {outside} do not exist: the encoder has {num_states} states, 0 (the "
            f"embedding output) to {num_states - 1} (the last layer), or -{num_states} to -1."
        )
    resolved = sorted({layer % num_states for layer in layers})
    if len(resolved) < len(layers):
        raise ConfigError(f"Fusion layers {list(layers)} name a layer twice. Name each once.")
    return tuple(resolved)


def build_fusion(
    name: str, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
) -> LayerFusion:
    """Build the fusion registered as `name`; arguments as for `LayerFusion`.

    Raises:
        ConfigError: no fusion has this name, or the layers do not fit it.
    """
    settings = FusionSettings(name, None if layers is None else tuple(layers))
    return FUSIONS[name](num_states, hidden_size, settings.layers)


@FUSIONS.register("last")
class LastLayer(LayerFusion):
    """The last state as it is; the others need not be kept.

    Shapes:
        hidden_KBLD (any number of states) -> the last one.
    """

    needs_all_states = False

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(num_states, hidden_size, layers or (-1,))

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the last of the states."""
        return hidden_KBLD[-1]


@FUSIONS.register("mean")
class MeanFusion(LayerFusion):
    """The mean of the chosen layers.

    Shapes:
        hidden_KBLD -> fused_BLD, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the mean of the chosen states."""
        first_BLD, *others = self._chosen(hidden_KBLD)
        return sum(others, start=first_BLD) / len(self.layers)


@FUSIONS.register("softmax")
class SoftmaxFusion(LayerFusion):
    """Blend the chosen layers with one learned weight a layer.

    fused = sum_k softmax(w)_k * hidden_k; starts as the plain mean.
    Source: Peters et al. 2018 (ELMo), equation 1 with gamma = 1.

    Shapes:
        hidden_KBLD -> fused_BLD, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    min_layers = 2

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(num_states, hidden_size, layers)
        self.layer_logits = nn.Parameter(torch.zeros(len(self.layers)))

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the weighted sum of the chosen states."""
        return _weighted_sum(self.layer_logits.softmax(dim=0), self._chosen(hidden_KBLD))

    def weights(self) -> Float[Tensor, "K"]:
        """Return the weight of each of `layers`; they sum to one."""
        return self.layer_logits.detach().softmax(dim=0)


@FUSIONS.register("gate")
class GateFusion(LayerFusion):
    """Blend the chosen layers with weights that every token sets for itself.

    alpha_k = softmax over k of u . hidden_k; fused = sum_k alpha_k * hidden_k, with one vector u
    of width D for all layers (a bias would cancel in the softmax). u is drawn small, so that
    training starts near the mean.

    Shapes:
        hidden_KBLD -> fused_BLD, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    min_layers = 2

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(num_states, hidden_size, layers)
        self.score = nn.Linear(hidden_size, 1, bias=False)
        nn.init.normal_(self.score.weight, std=0.02)

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the sum of the chosen states, weighted token by token."""
        chosen = self._chosen(hidden_KBLD)
        alpha_KBL1 = torch.stack([self.score(hidden_BLD) for hidden_BLD in chosen]).softmax(dim=0)
        return _weighted_sum(alpha_KBL1, chosen)


def _weighted_sum(weights: Tensor, chosen: Sequence[Tensor]) -> Tensor:
    """Add up weights[k] * chosen[k] without stacking the states, which would copy them all."""
    fused_BLD = weights[0] * chosen[0]
    for weight, hidden_BLD in zip(weights[1:], chosen[1:], strict=True):
        fused_BLD = fused_BLD + weight * hidden_BLD
    return fused_BLD
