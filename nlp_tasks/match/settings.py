"""The settings of towers, of the loss that they are trained with, and of their batches."""

from dataclasses import dataclass, field
from typing import Any, Literal

from idbert.errors import ConfigError
from idbert.nn.pooling import read_pooling_options
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.config import PretrainedSettings

STANDARD_POOLINGS = {"cls": "cls", "mean": "mean", "max": "max", "mean_max": ("mean", "max")}
"""Our poolings that sentence-transformers has too, under its names."""

DEFAULT_POOLING = "mean"
DEFAULT_MAX_LENGTH = 512
"""Tokens of a text where the model itself has no limit, as NEZHA has none."""


@dataclass(frozen=True)
class TowerSettings:
    """How texts become vectors. What is left out stays as the opened model has it."""

    pooling: str | None = None
    """How the tokens' vectors become one: cls, mean, max, mean_max, or any pooling of nlp_cls.
    Default: as the opened model has it, and mean for a bare encoder."""

    pooling_options: dict[str, Any] = field(default_factory=dict)
    """What the pooling itself can be told, by name."""

    structure: StructureSettings = field(default_factory=StructureSettings)
    """Fusion of the layers, and a block on it"""

    encoder: PretrainedSettings = field(default_factory=PretrainedSettings)
    """What is changed about the pretrained encoder"""

    layers: int | None = None
    """Only so many of the encoder's lowest layers are kept. Default: all."""

    width: int | None = None
    """Width that a dense layer brings the vectors to. Default: as the opened model has it."""

    activation: Literal["identity", "tanh"] | None = None
    """Behind that dense layer. Default: identity."""

    normalize: bool | None = None
    """Whether vectors get length 1, so that an inner product is a cosine. Default: as the opened
    model has it, and no for a bare encoder."""

    two_towers: bool = False
    """First and second texts are read by two encoders, which start as copies of one another, and
    not by one: encode(..., task="query") and task="document"."""

    max_length: int | None = None
    """Tokens of a text, special tokens included; the rest is cut off. Default: what the opened
    model says, 512 where it has no limit."""

    def __post_init__(self) -> None:
        if self.pooling is not None:
            read_pooling_options(self.pooling, self.pooling_options)
        elif self.pooling_options:
            raise ConfigError(
                f"pooling_options={self.pooling_options} cannot act without a pooling. Name one."
            )
        for name, least in (("layers", 1), ("width", 1), ("max_length", 3)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}.")
        if self.activation is not None and self.width is None:
            raise ConfigError(
                f"activation '{self.activation}' cannot act without a dense layer. Give a width."
            )
        if self.activation not in (None, "identity", "tanh"):
            raise ConfigError(f"activation is '{self.activation}'; choose identity or tanh.")

    @property
    def needs_own_modules(self) -> bool:
        """Whether sentence-transformers' own modules cannot express the encoder and what is on it.

        A pooling of ours may still stand behind an encoder of theirs.
        """
        return self.structure != StructureSettings() or self.encoder.residual_scores != "none"

    @property
    def changes_encoder(self) -> bool:
        """Whether the encoder is to be another than the opened one."""
        return (
            self.needs_own_modules
            or self.encoder != PretrainedSettings()
            or self.layers is not None
        )


LossInputs = Literal["labelled", "positives", "triplets", "texts"]
"""What a loss reads: pairs with labels; pairs that belong together, with hard negatives behind
them; those with exactly one negative; or texts alone."""


@dataclass(frozen=True)
class MatchLossSettings:
    """The loss that towers are trained with."""

    name: str | None = None
    """softmax, bce, focal (a classifier on both vectors), cosine_mse, cosent, contrastive, triplet,
    in_batch (the other pairs' texts are negatives), simcse (texts alone), or a class of
    sentence-transformers' losses, such as AnglELoss. Default: cosent for 0 and 1 and for scores,
    softmax for classes, in_batch for pairs without labels."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the loss itself can be told, by name: temperature, margin, concatenation, ..."""

    matryoshka: tuple[int, ...] | None = None
    """Widths at which the first numbers of a vector shall do alone; the loss is the sum over these
    and the full width."""

    inputs: LossInputs | None = None
    """What a class of sentence-transformers reads that is not known here: labelled (pairs and
    labels), positives (pairs, then hard negatives), triplets, texts (each twice)."""

    def __post_init__(self) -> None:
        from nlp_tasks.match.losses import check_loss

        check_loss(self.name, self.options, self.inputs)
        if self.matryoshka is not None:
            if not self.matryoshka:
                raise ConfigError("matryoshka names no width. Name some, such as [64, 128].")
            if min(self.matryoshka) < 1 or len(set(self.matryoshka)) < len(self.matryoshka):
                raise ConfigError(
                    f"matryoshka is {list(self.matryoshka)}; give different widths of 1 or more."
                )


@dataclass(frozen=True)
class MatchBatchSettings:
    """How pairs are put together into batches."""

    size: int = 32
    """Pairs of a batch; where the batch gives the negatives, more pairs make a harder task."""

    unique: bool | None = None
    """Whether no text stands twice in a batch, since it would be a negative of its own pair.
    Default: yes for losses whose batch gives the negatives, no for others."""

    by_length: bool | None = None
    """Whether the texts of a batch are encoded in groups of like length, each padded to its own
    longest, and a BERT by idbert's encoder, whose dropout is cheaper: much faster, the same batches
    and losses, other random numbers of dropout. If no, every step is sentence-transformers' own to
    the last bit. Default: yes in bfloat16 on a CPU, no otherwise."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size is {self.size}; it must be at least 1.")
