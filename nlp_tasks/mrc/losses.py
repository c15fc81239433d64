"""Losses over the positions of a window: where an answer begins and ends.

A loss also says what the logits mean: scores by which spans are ranked, and their probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry


class SpanLoss(nn.Module):
    """Base of the losses over positions.

    Args:
        options: An object of the class's `Options`.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, options: NoOptions) -> None:
        super().__init__()
        self.options = options

    def forward(
        self,
        logits_BL: Float[Tensor, "B L"],
        positions_B: Int[Tensor, "B"],
        context_mask_BL: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        """Return the loss of each window.

        Args:
            logits_BL: Of every position.
            positions_B: The right one; 0 where the window has no answer.
            context_mask_BL: Positions that can be right: 0, and those of the context.
        """
        raise NotImplementedError

    def scores(
        self, logits_BL: Float[Tensor, "B L"], context_mask_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return by what positions are ranked, also those of several windows."""
        raise NotImplementedError

    def log_probabilities(
        self, logits_BL: Float[Tensor, "B L"], context_mask_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return the logarithm of each position's probability in its window."""
        raise NotImplementedError


SPAN_LOSSES: Registry[type[SpanLoss]] = Registry("span loss")


@SPAN_LOSSES.register("softmax")
class SoftmaxSpanLoss(SpanLoss):
    """Cross-entropy over the positions of a window, position 0 standing for no answer.

    loss = -log softmax(logits)[position], the softmax over position 0 and the context. Source:
    Devlin et al. 2019 (BERT), sections 4.2 and 4.3, which leaves question and padding in.
    """

    def forward(
        self,
        logits_BL: Float[Tensor, "B L"],
        positions_B: Int[Tensor, "B"],
        context_mask_BL: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        """Return the loss of each window."""
        masked_BL = self.scores(logits_BL, context_mask_BL)
        return functional.cross_entropy(masked_BL, positions_B, reduction="none")

    def scores(
        self, logits_BL: Float[Tensor, "B L"], context_mask_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return the logits, minus infinity where no answer can be."""
        return logits_BL.masked_fill(~context_mask_BL, -torch.inf)

    def log_probabilities(
        self, logits_BL: Float[Tensor, "B L"], context_mask_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return the logarithm of the softmax."""
        return self.scores(logits_BL, context_mask_BL).log_softmax(dim=1)


@SPAN_LOSSES.register("sigmoid")
class SigmoidSpanLoss(SpanLoss):
    """Binary cross-entropy of every position by itself, the right one weighing more.

    loss = mean over the positions i of w_i * BCE(sigmoid(logit_i), [i is right]), with w_i =
    positive_weight at the right position and 1 elsewhere.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Options of the loss."""

        positive_weight: float = 10.0
        """How much the right position weighs; every other one weighs 1."""

        def __post_init__(self) -> None:
            if not self.positive_weight > 0:
                raise ConfigError(f"positive_weight is {self.positive_weight}; it must be above 0.")

    options: Options

    def forward(
        self,
        logits_BL: Float[Tensor, "B L"],
        positions_B: Int[Tensor, "B"],
        context_mask_BL: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B"]:
        """Return the loss of each window."""
        targets_BL = functional.one_hot(positions_B, logits_BL.shape[1]).to(logits_BL.dtype)
        weight = logits_BL.new_tensor(self.options.positive_weight)
        losses_BL = functional.binary_cross_entropy_with_logits(
            logits_BL, targets_BL, pos_weight=weight, reduction="none"
        )
        sums_B = losses_BL.masked_fill(~context_mask_BL, 0.0).sum(dim=1)
        return sums_B / context_mask_BL.sum(dim=1)

    def scores(
        self, logits_BL: Float[Tensor, "B L"], context_mask_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return the log probabilities, which are comparable between windows."""
        return self.log_probabilities(logits_BL, context_mask_BL)

    def log_probabilities(
        self, logits_BL: Float[Tensor, "B L"], context_mask_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return the logarithm of the sigmoid."""
        return functional.logsigmoid(logits_BL).masked_fill(~context_mask_BL, -torch.inf)


@dataclass(frozen=True)
class SpanSettings:
    """What is learned of a window: where its answer begins and ends, and whether it has one."""

    name: str = "softmax"
    """softmax: over the positions of a window, the first one standing for no answer; sigmoid: every
    position by itself."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the loss itself can be told: {"positive_weight": 10} of sigmoid."""

    answer_share: float | int = 0.0
    """Share of the loss of "is there an answer?", which a head of its own learns; the rest is that
    of the span. 0: there is no such head, and position 0 alone tells."""

    dropout: float | int = 0.1
    """Dropout before the heads."""

    def __post_init__(self) -> None:
        read_span_options(self.name, self.options)
        if not 0.0 <= self.answer_share < 1.0:
            raise ConfigError(f"answer_share is {self.answer_share}; choose from 0 to below 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout}; choose from 0 to below 1.")


def read_span_options(name: str, options: Mapping[str, Any] | None) -> NoOptions:
    """Return the options of the span loss `name`.

    Raises:
        ConfigError: no span loss has this name, or it has no such options.
    """
    return read_options(f"span loss '{name}'", SPAN_LOSSES[name].Options, options)


def build_span_loss(name: str, options: Mapping[str, Any] | None) -> SpanLoss:
    """Build the span loss registered as `name`.

    Raises:
        ConfigError: no span loss has this name, or it has no such options.
    """
    return SPAN_LOSSES[name](read_span_options(name, options))
