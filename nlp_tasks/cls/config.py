"""The settings of a text classifier, and the config that is saved with its weights."""

from dataclasses import dataclass
from typing import Any, Literal, no_type_check

from huggingface_hub.dataclasses import strict

from idbert.errors import ConfigError
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.heads import HEADS
from idbert.nn.losses.labels import LabelKind, LabelLossSettings

AUXILIARY_SHARE = 0.2
R_DROP_SHARE = 0.5


@dataclass(frozen=True)
class PretrainedSettings:
    """What is changed about a pretrained encoder; the rest is as its checkpoint says."""

    residual_scores: Literal["none", "gated"] = "none"
    """gated: RealFormer's residual attention scores, handed on from layer to layer through gates
    that start at 0, so that training begins with the checkpoint's own function."""

    hidden_dropout: float | None = None
    """Dropout on the embeddings and on the output of each block; null: the checkpoint's."""

    attention_dropout: float | None = None
    """Dropout on attention probabilities; null: the checkpoint's."""

    def __post_init__(self) -> None:
        if self.residual_scores not in ("none", "gated"):
            raise ConfigError(
                f"residual_scores is '{self.residual_scores}'; choose none or gated. Without gates "
                "a pretrained encoder would compute something else than it was trained for."
            )
        for name in ("hidden_dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ConfigError(f"{name} is {value}; choose from 0 to below 1.")


@dataclass(frozen=True)
class ClassifierLossSettings(LabelLossSettings):
    """The loss over labels, and what is added to it in training."""

    auxiliary: bool = False
    """A second, plain head on the encoder's own last state, below fusion and block, is trained
    beside the first one. It is not asked for predictions."""

    auxiliary_share: float | int | None = None
    """Share of the second head in the loss. Default: 0.2, which leaves 0.8 to the first."""

    r_drop: float | int = 0.0
    """R-Drop: texts are read twice, each time with another dropout, and the two predictions are
    drawn together with this weight; 0: off. Published weights are 0.1 to 5. Their distance is
    summed over several labels, or averaged where the loss is (bce, focal_bce)."""

    r_drop_share: float | int | None = None
    """Share of a batch's texts that are read twice; 1 is the paper's. Default: 0.5, which takes
    three quarters of that time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.auxiliary_share is not None and not self.auxiliary:
            raise ConfigError(
                f"auxiliary_share={self.auxiliary_share} cannot act without the auxiliary loss. "
                "Set auxiliary=true, or leave it out."
            )
        if self.auxiliary_share is not None and not 0.0 < self.auxiliary_share < 1.0:
            raise ConfigError(
                f"auxiliary_share is {self.auxiliary_share}; it must be above 0 and below 1."
            )
        if self.r_drop < 0:
            raise ConfigError(f"r_drop is {self.r_drop}; it must be at least 0.")
        if self.r_drop_share is not None and not self.r_drop:
            raise ConfigError(
                f"r_drop_share={self.r_drop_share} cannot act without R-Drop. Set r_drop above 0, "
                "or leave it out."
            )
        if self.r_drop_share is not None and not 0.0 < self.r_drop_share <= 1.0:
            raise ConfigError(
                f"r_drop_share is {self.r_drop_share}; it must be above 0 and at most 1."
            )

    @property
    def share(self) -> float:
        """Share of the auxiliary head in the loss, 0 where there is none."""
        if not self.auxiliary:
            return 0.0
        return AUXILIARY_SHARE if self.auxiliary_share is None else float(self.auxiliary_share)


@no_type_check  # `strict` checks the fields; jaxtyping would refuse those that transformers adds
@strict
class ClassifierConfig(EncoderConfig):
    """The encoder's config, and the fields of what stands on it.

    Raises:
        ConfigError: the fields do not describe a classifier that can be built.
    """

    model_type = "idbert_classifier"

    label_kind: LabelKind = "single"
    num_outputs: int = 2
    """C: labels to choose from; 1 for a number."""
    pooling: str = "mean"
    pooling_options: dict[str, Any] | None = None
    head: str = "linear"
    head_dropout: float | int = 0.1
    head_dropout_samples: int = 1
    head_options: dict[str, Any] | None = None
    label_loss: str | None = None
    """None: the default loss of the kind."""
    label_loss_options: dict[str, Any] | None = None
    auxiliary_share: float | int = 0.0
    r_drop: float | int = 0.0
    r_drop_share: float | int = 1.0
    target_mean: float | int = 0.0
    target_scale: float | int = 1.0
    """Mean and standard deviation of the training numbers. The head learns (number - mean) / scale,
    whatever unit the numbers are in."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_outputs < 1:
            raise ConfigError(f"num_outputs is {self.num_outputs}; it must be at least 1.")
        if self.label_kind == "number" and self.num_outputs != 1:
            raise ConfigError(
                f"A number is one output, not {self.num_outputs}. Set num_outputs to 1."
            )
        if HEADS[self.head].for_several_labels and self.label_kind != "multi":
            raise ConfigError(
                f"The head '{self.head}' is for texts with several labels that depend on each "
                f"other, and these have one. Choose another head, such as mlp."
            )
        silent = not (
            self.hidden_dropout_prob or self.attention_probs_dropout_prob or self.head_dropout
        )
        if self.r_drop and silent:
            raise ConfigError(
                f"r_drop={self.r_drop} cannot act without dropout: both readings of a batch would "
                "be the same. Give a dropout above 0, or set r_drop to 0."
            )
