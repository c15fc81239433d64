"""The base of all losses over labels, their table and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError, DataError, ShapeError
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry

LabelKind = Literal["single", "multi", "number"]
"""What is predicted: one label of several, any number of labels, or a number."""

IGNORED = -100
"""The target of a row that has none: it costs nothing."""


class LabelLoss(nn.Module):
    """Base of all losses over labels: from logits, one loss a row.

    The model adds the rows' losses up and divides by the number of rows with a target, of all
    batches whose gradients are accumulated; so a loss never averages over rows itself.

    Args:
        num_outputs: C, the number of logits of a row.
        options: An instance of the class's `Options`.

    Raises:
        ConfigError: num_outputs does not fit the kind, or the loss needs figures of the training
            rows and `fit` was not called.
        ShapeError: logits or targets are of another shape.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    """What the loss can be told; a frozen dataclass."""

    kind: ClassVar[LabelKind]
    """The kind of targets that it reads."""

    averages_labels: ClassVar[bool] = False
    """Whether a row's loss is a mean over its labels; what is added to it then is one, too."""

    def __init__(self, num_outputs: int, options: NoOptions) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        needs, fits = {
            "single": ("2 labels or more", num_outputs >= 2),
            "multi": ("1 label or more", num_outputs >= 1),
            "number": ("1 output", num_outputs == 1),
        }[self.kind]
        if not fits:
            raise ConfigError(f"{type(self).__name__} needs {needs}, not {num_outputs}.")

    def fit(
        self,
        counts_C: Shaped[Tensor, "C"],
        num_rows: int,
        pair_counts_CC: Shaped[Tensor, "C C"] | None = None,
    ) -> None:
        """Learn what the loss takes from the training rows: by default nothing.

        What is learned lies in buffers and is saved with the model.

        Args:
            counts_C: Rows that bear each label.
            num_rows: Rows in all.
            pair_counts_CC: Rows that bear both labels; several labels only.
        """

    def fit_targets(self, targets: Shaped[Tensor, "N ..."]) -> None:
        """Count the labels of the training rows, and `fit` to them.

        Args:
            targets: Of every training row, as for `forward`; rows without a target are left out.

        Raises:
            DataError: a target is no label.
        """
        if self.kind == "number":
            return self.fit(targets.new_zeros(1), len(targets))
        if self.kind == "multi":
            targets_NC = (targets > 0.5).float()
            return self.fit(targets_NC.sum(0), len(targets), targets_NC.T @ targets_NC)
        targets_N = targets[targets != IGNORED].long()
        outside = targets_N[(targets_N < 0) | (targets_N >= self.num_outputs)]
        if len(outside):
            raise DataError(
                f"{len(outside)} targets are no label: {outside[:5].tolist()}. Labels are 0 to "
                f"{self.num_outputs - 1}, and {IGNORED} where there is none."
            )
        return self.fit(targets_N.bincount(minlength=self.num_outputs), len(targets_N))

    def forward(
        self,
        logits_BC: Float[Tensor, "B C"],
        targets: Shaped[Tensor, "..."],
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row, in float32 at least.

        Args:
            logits_BC: Scores before any softmax or sigmoid.
            targets: single: Int64[B], -100 where there is none; multi: Float[B, C] of 0 and 1;
                number: Float[B].
        """
        if logits_BC.shape[1] != self.num_outputs:
            raise ShapeError(
                f"{type(self).__name__} was built for {self.num_outputs} outputs and received "
                f"{logits_BC.shape[1]}."
            )
        expected = logits_BC.shape if self.kind == "multi" else logits_BC.shape[:1]
        if targets.shape != expected:
            raise ShapeError(
                f"Targets of kind '{self.kind}' for logits {list(logits_BC.shape)} have the shape "
                f"{list(expected)}, not {list(targets.shape)}."
            )
        with torch.autocast(logits_BC.device.type, enabled=False):  # products too
            return self.row_losses(logits_BC.to(_wide(logits_BC)), targets)

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row; the shapes are checked, and logits are float32 or wider."""
        raise NotImplementedError

    def probabilities(self, logits_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Return the probability of each label as this loss means it; of a number, the number."""
        raise NotImplementedError

    def decide(
        self, logits_BC: Float[Tensor, "B C"]
    ) -> Int64[Tensor, "B"] | Bool[Tensor, "B C"] | Float[Tensor, "B"]:
        """Return the label of each row, which labels it bears, or its number, by kind."""
        raise NotImplementedError


class SingleLabelLoss(LabelLoss):
    """Base of the losses for one label of several; probabilities are the softmax."""

    kind = "single"

    def probabilities(self, logits_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Return the softmax, float32 at least."""
        return logits_BC.to(_wide(logits_BC)).softmax(dim=-1)

    def decide(self, logits_BC: Float[Tensor, "B C"]) -> Int64[Tensor, "B"]:
        """Return the label with the highest logit."""
        return logits_BC.argmax(dim=-1)


class MultiLabelLoss(LabelLoss):
    """Base of the losses for any number of labels; probabilities are sigmoids, decided at 1/2."""

    kind = "multi"

    def probabilities(self, logits_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Return the sigmoids, float32 at least."""
        return logits_BC.to(_wide(logits_BC)).sigmoid()

    def decide(self, logits_BC: Float[Tensor, "B C"]) -> Bool[Tensor, "B C"]:
        """Return whether each label's probability is above 1/2."""
        return self.probabilities(logits_BC) > 0.5


class NumberLoss(LabelLoss):
    """Base of the losses for a number: the one logit is the number."""

    kind = "number"

    def probabilities(self, logits_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Return the numbers as they are: a number has no probability."""
        return logits_BC.to(_wide(logits_BC))

    def decide(self, logits_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B"]:
        """Return the number of each row."""
        return logits_BC.to(_wide(logits_BC))[:, 0]


LABEL_LOSSES: Registry[type[LabelLoss]] = Registry("label loss")

DEFAULT_LOSSES: dict[LabelKind, str] = {
    "single": "cross_entropy",
    "multi": "zlpr",
    "number": "mse",
}
"""The loss of each kind where none is named."""


@dataclass(frozen=True)
class LabelLossSettings:
    """The loss over the labels."""

    name: str | None = None
    """One label: cross_entropy, focal, sampled_softmax; several: bce, focal_bce, zlpr,
    concurrent_softmax; a number: mse, huber. Default: cross_entropy, zlpr or mse."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the loss itself can be told, by name."""

    def __post_init__(self) -> None:
        if self.name is not None:
            read_loss_options(self.name, self.options)


def read_loss_options(name: str, options: Mapping[str, Any] | None) -> NoOptions:
    """Return the options of the loss `name`.

    Raises:
        ConfigError: no loss has this name, or it has no such options.
    """
    return read_options(f"label loss '{name}'", LABEL_LOSSES[name].Options, options)


def build_label_loss(settings: LabelLossSettings, kind: LabelKind, num_outputs: int) -> LabelLoss:
    """Build the loss that the settings name, or the default of the kind.

    Args:
        settings: Name and options.
        kind: What is predicted.
        num_outputs: C, the number of labels; 1 for a number.

    Raises:
        ConfigError: the loss is for another kind, or its options do not fit.
    """
    name = settings.name or DEFAULT_LOSSES[kind]
    loss = LABEL_LOSSES[name]
    if loss.kind != kind:
        fitting = [other for other in LABEL_LOSSES if LABEL_LOSSES[other].kind == kind]
        raise ConfigError(
            f"The label loss '{name}' is for labels of kind '{loss.kind}', and these are of kind "
            f"'{kind}'. Choose from: {', '.join(fitting)}."
        )
    return loss(num_outputs, read_loss_options(name, settings.options))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
