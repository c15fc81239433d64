"""Fusions without parameters: one layer, or a fixed function of several."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from idbert.nn.fusion.layer_fusion import FUSIONS, LayerFusion


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


@FUSIONS.register("layer")
class OneLayer(LayerFusion):
    """One chosen state as it is.

    The layers above it are computed all the same, and receive no gradient.

    Shapes:
        hidden_KBLD -> the chosen one.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    max_layers = 1

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the chosen state."""
        return self._chosen(hidden_KBLD)[0]


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
        return _total(self._chosen(hidden_KBLD)) / len(self.layers)


@FUSIONS.register("sum")
class SumFusion(LayerFusion):
    """The sum of the chosen layers.

    Shapes:
        hidden_KBLD -> fused_BLD, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the sum of the chosen states."""
        return _total(self._chosen(hidden_KBLD))


@FUSIONS.register("max")
class MaxFusion(LayerFusion):
    """The largest value of the chosen layers, component by component.

    Shapes:
        hidden_KBLD -> fused_BLD, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L D"]:
        """Return the maximum of the chosen states."""
        return _maximum(self._chosen(hidden_KBLD))


@FUSIONS.register("mean_max")
class MeanMaxFusion(LayerFusion):
    """Mean and maximum of the chosen layers, side by side.

    Shapes:
        hidden_KBLD -> [B, L, 2D], the mean first, dtype kept.

    Raises:
        ShapeError: hidden_KBLD does not hold num_states states.
    """

    min_layers = 2

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(num_states, hidden_size, layers)
        self.width = 2 * hidden_size

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L _"]:
        """Return mean and maximum of the chosen states, one behind the other."""
        chosen = self._chosen(hidden_KBLD)
        return torch.cat([_total(chosen) / len(chosen), _maximum(chosen)], dim=-1)


def _total(chosen: Sequence[Tensor]) -> Tensor:
    first_BLD, *others = chosen
    return sum(others, start=first_BLD)


def _maximum(chosen: Sequence[Tensor]) -> Tensor:
    """Return the maximum without stacking the states, which would copy them all."""
    largest_BLD = chosen[0]
    for hidden_BLD in chosen[1:]:
        largest_BLD = torch.maximum(largest_BLD, hidden_BLD)
    return largest_BLD
