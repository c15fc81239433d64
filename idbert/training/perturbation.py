"""What is added to the embedded sequences of a batch, one vector a position, example by example."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Perturbation:
    """What is added to the output of an embedding, one tensor for each call in a forward pass.

    Args:
        embedding: The module.
        epsilon: Radius of the ball.
        generator: Draws where in the ball to begin; None: at 0.
    """

    def __init__(
        self, embedding: nn.Embedding, epsilon: float, generator: torch.Generator | None = None
    ) -> None:
        self._embedding, self._epsilon, self._generator = embedding, epsilon, generator
        self._calls = 0
        self.deltas: list[Tensor] = []

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Add the perturbation in the forward pass inside the block."""
        self._calls = 0
        handle: RemovableHandle = self._embedding.register_forward_hook(self._add)
        try:
            yield
        finally:
            handle.remove()

    def step(self, gradients: Iterable[Tensor], length: float) -> None:
        """Move each example `length` along its gradient, and back into the ball."""
        self.deltas = [
            into_ball(delta.detach() + length * direction(gradient), self._epsilon).requires_grad_()
            for delta, gradient in zip(self.deltas, gradients, strict=True)
        ]

    def _add(self, _: nn.Module, inputs: tuple[Any, ...], embedded: Tensor) -> Tensor:
        if self._calls == len(self.deltas):
            self.deltas.append(self._start(inputs[0], embedded).requires_grad_())
        self._calls += 1
        return embedded + self.deltas[self._calls - 1]

    def _start(self, ids: Tensor, embedded: Tensor) -> Tensor:
        if self._generator is None:
            return torch.zeros_like(embedded)
        padding = self._embedding.padding_idx
        is_real = torch.ones_like(ids, dtype=torch.bool) if padding is None else ids != padding
        return random_in_ball(embedded.detach(), is_real, self._epsilon, self._generator)


def gradients_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradient of each tensor; 0 where a loss does not depend on it."""
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]


def direction(gradient_BLD: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """Return the gradient of each example at norm 1; 0 stays 0."""
    norm_B = _norms(gradient_BLD)
    return gradient_BLD / norm_B.clamp(min=torch.finfo(norm_B.dtype).tiny)


def into_ball(delta_BLD: Float[Tensor, "B ..."], radius: float) -> Float[Tensor, "B ..."]:
    """Scale the perturbations of a larger norm than `radius` down to it."""
    norm_B = _norms(delta_BLD)
    return delta_BLD * (radius / norm_B.clamp(min=radius))


def random_in_ball(
    delta_BLD: Float[Tensor, "B ..."],
    is_real_BL: Bool[Tensor, "B ..."],
    radius: float,
    generator: torch.Generator,
) -> Float[Tensor, "B ..."]:
    """Return uniform numbers in [-radius, radius] / sqrt(an example's real positions * width).

    Args:
        delta_BLD: Gives shape and device.
        is_real_BL: False at padding, which gets 0.
        radius: Bound of the norms.
        generator: Of the numbers.
    """
    uniform_BLD = torch.empty_like(delta_BLD).uniform_(-radius, radius, generator=generator)
    real_B = is_real_BL.flatten(1).sum(1) if is_real_BL.ndim > 1 else is_real_BL
    size_B = real_B.clamp(min=1) * delta_BLD.shape[-1]
    shape = [-1] + [1] * (delta_BLD.ndim - 1)
    return uniform_BLD * is_real_BL[..., None] / size_B.sqrt().reshape(shape)


def _norms(rows_BLD: Tensor) -> Tensor:
    """Return each row's L2 norm, with axes of size 1 for all but the first."""
    norms_B: Tensor = torch.linalg.vector_norm(rows_BLD.flatten(1), dim=1)
    return norms_B.reshape([-1] + [1] * (rows_BLD.ndim - 1))
