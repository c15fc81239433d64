"""Fusions that learn how much of each layer to take."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.fusion.layer_fusion import FUSIONS, LayerFusion


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


@FUSIONS.register("weights")
class FreeWeightsFusion(LayerFusion):
    """Add up the chosen layers, each times a weight that may take any value.

    fused = sum_k w_k * hidden_k; starts as the plain mean, w_k = 1 / K.

    Shapes:
        hidden_KBLD -> fused_BLD, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(num_states, hidden_size, layers)
        count = len(self.layers)
        self.layer_weights = nn.Parameter(torch.full((count,), 1 / count))

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the weighted sum of the chosen states."""
        return _weighted_sum(self.layer_weights, self._chosen(hidden_KBLD))

    def weights(self) -> Float[Tensor, "K"]:
        """Return the weight of each of `layers`, which may be negative."""
        return self.layer_weights.detach().clone()


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
