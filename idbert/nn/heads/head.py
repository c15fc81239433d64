"""The base of all heads, their table, their settings and the dropout before them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from idbert.errors import ConfigError, ShapeError, suggestion
from idbert.nn.losses.labels import LabelKind
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry


class Head(nn.Module):
    """Base of all heads: a pooled vector becomes one logit a label.

    Args:
        input_width: D, the width of the pooled vectors.
        num_outputs: C, the number of labels; 1 for a number.
        options: An instance of the class's `Options`.

    Shapes:
        pooled_BD -> logits_BC.

    Raises:
        ConfigError: a width is below 1, or the head is for several labels and there is one.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    """What the head can be told; a frozen dataclass."""

    for_several_labels: ClassVar[bool] = False
    """True for a head that reads how labels occur together."""

    def __init__(self, input_width: int, num_outputs: int, options: NoOptions) -> None:
        super().__init__()
        if input_width < 1 or num_outputs < 1:
            raise ConfigError(
                f"{type(self).__name__} needs an input width and a number of outputs of at least "
                f"1, not {input_width} and {num_outputs}."
            )
        if self.for_several_labels and num_outputs < 2:
            raise ConfigError(
                f"{type(self).__name__} relates labels to each other and needs at least 2 of "
                f"them, not {num_outputs}. Choose the head 'linear' or 'mlp'."
            )
        self.input_width = input_width
        self.num_outputs = num_outputs

    def fit(self, labels_NC: Float[Tensor, "N C"]) -> None:
        """Learn what the head takes from the training labels: by default nothing.

        What is learned lies in buffers and is saved with the model.

        Args:
            labels_NC: 1 where a row bears a label, else 0.
        """

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        raise NotImplementedError


HEADS: Registry[type[Head]] = Registry("head")


@dataclass(frozen=True)
class HeadSettings:
    """What turns the pooled vector into logits."""

    name: str = "linear"
    """linear, mlp, residual_mlp, dense_mlp (each layer reads all before it); for several labels
    also label_rnn (an RNN over the labels), label_graph (a graph of labels that occur together)."""

    dropout: float | int = 0.1
    """Dropout on the pooled vector."""

    dropout_samples: int = 1
    """Passes through dropout and head, in training, whose logits are averaged."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the head itself can be told, by name."""

    def __post_init__(self) -> None:
        read_head_options(self.name, self.options)
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                f"dropout before the head is {self.dropout}; choose from 0 to below 1."
            )
        if self.dropout_samples < 1:
            raise ConfigError(f"dropout_samples is {self.dropout_samples}; it must be at least 1.")
        if self.dropout_samples > 1 and self.dropout == 0.0:
            raise ConfigError(
                f"dropout_samples={self.dropout_samples} cannot act without dropout: all passes "
                "are equal. Raise dropout, or leave dropout_samples out."
            )


class DropoutHead(nn.Module):
    """Dropout, then a head; in training optionally several of both, averaged.

    logits = 1/S sum_s head(dropout_s(pooled)). The published form averages the S losses;
    averaged logits let any loss stand behind, and are the same where the loss is linear.
    With S = 1 and a linear head this is the classifier of transformers'
    BertForSequenceClassification.

    Source: Inoue 2019, "Multi-Sample Dropout for Accelerated Training and Better Generalization".

    Args:
        head: What turns vectors into logits.
        dropout: Share of the vector's components dropped in training.
        num_samples: S.

    Shapes:
        pooled_BD -> logits_BC.
    """

    def __init__(self, head: Head, dropout: float | int = 0.1, num_samples: int = 1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = head
        self.num_samples = num_samples

    @property
    def for_several_labels(self) -> bool:
        """Whether the head reads how labels occur together."""
        return self.head.for_several_labels

    def fit(self, labels_NC: Float[Tensor, "N C"]) -> None:
        """Let the head learn from the training labels; see `Head.fit`."""
        self.head.fit(labels_NC)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        if pooled_BD.shape[1] != self.head.input_width:
            raise ShapeError(
                f"{type(self.head).__name__} was built for vectors of width "
                f"{self.head.input_width} and received width {pooled_BD.shape[1]}."
            )
        if not self.training or self.num_samples == 1:
            logits_BC: Tensor = self.head(self.dropout(pooled_BD))
            return logits_BC
        # All samples in one pass: row b of sample s is row s * B + b.
        logits: Tensor = self.head(self.dropout(pooled_BD.repeat(self.num_samples, 1)))
        return logits.view(self.num_samples, len(pooled_BD), -1).mean(dim=0)


def read_head_options(name: str, options: Mapping[str, Any] | None) -> NoOptions:
    """Return the options of the head `name`.

    Raises:
        ConfigError: no head has this name, or it has no such options.
    """
    return read_options(f"head '{name}'", HEADS[name].Options, options)


def build_head(
    settings: HeadSettings, input_width: int, num_outputs: int, *, kind: LabelKind | None = None
) -> DropoutHead:
    """Build the head that the settings name, with the dropout before it.

    Args:
        settings: Name, dropout and options.
        input_width: D, the width of the pooled vectors.
        num_outputs: C, the number of labels; 1 for a number.
        kind: What is predicted; where it is given, a head for several labels is refused for
            another kind.

    Raises:
        ConfigError: the head does not fit the kind or the number of labels.
    """
    options = read_head_options(settings.name, settings.options)
    head_class = HEADS[settings.name]
    if head_class.for_several_labels and kind not in (None, "multi"):
        raise ConfigError(
            f"The head '{settings.name}' reads how the labels of a row occur together; with "
            f"labels of kind '{kind}' they never do. Choose another head."
        )
    head = head_class(input_width, num_outputs, options)
    return DropoutHead(head, settings.dropout, settings.dropout_samples)


def build_activation(name: str) -> nn.Module:
    """Return the activation of this name in transformers.

    Raises:
        ConfigError: there is none.
    """
    if name not in ACT2FN:
        raise ConfigError(
            f"There is no activation '{name}'.{suggestion(name, ACT2FN)} "
            f"Choose from: {', '.join(sorted(ACT2FN))}."
        )
    activation: nn.Module = ACT2FN[name]
    return activation
