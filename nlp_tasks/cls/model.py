"""The text classifier: backbone, pooling, head, and the loss over labels.

One label a text, several, or a number. It stands on a published BERT or NEZHA, or on an encoder
that idbert has trained on texts.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils.generic import ModelOutput

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.backbone import BackbonePreTrainedModel
from idbert.nn.encoder import Encoder
from idbert.nn.encoder_config import plain_options
from idbert.nn.heads import HeadSettings, build_head
from idbert.nn.losses.labels import LabelKind, LabelLossSettings, build_label_loss
from idbert.nn.pooling import PoolingSettings, build_pooling
from idbert.nn.saved_models import open_saved
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.additions import AuxiliaryHead, symmetric_divergence
from nlp_tasks.cls.config import R_DROP_SHARE, ClassifierConfig, ClassifierLossSettings
from nlp_tasks.cls.encoders import config_on, open_text_encoder, read_model_config

logger = logging.getLogger(__name__)


@dataclass
class ClassifierOutput(ModelOutput):
    """What `TextClassifier.forward` returns.

    Attributes:
        loss: The rows' summed loss over their number, a scalar; None without labels.
        logits: One number a text and output, [B, C].
    """

    loss: Any = None
    logits: Tensor | None = None


class TextClassifier(BackbonePreTrainedModel):  # type: ignore[no-untyped-call]
    """Backbone > pooling > dropout > head.

    loss = (1 - a) * main + a * auxiliary, each the label loss of its logits; R-Drop adds
    r * (KL(p || q) + KL(q || p)) / 2 of two readings p and q of the same batch, whose losses are
    averaged.

    Source: Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", in the scale of
    its authors' code (the paper adds the two losses up).

    Args:
        config: Of the encoder and of what stands on it.
    """

    config_class = ClassifierConfig

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.pooling = build_pooling(config.pooling, self.backbone.width, config.pooling_options)
        self.has_pretrained_pooler = False
        self.head = build_head(
            HeadSettings(
                config.head,
                config.head_dropout,
                config.head_dropout_samples,
                config.head_options or {},
            ),
            self.pooling.width,
            config.num_outputs,
        )
        self.auxiliary = AuxiliaryHead(config) if config.auxiliary_share else None
        self.loss = build_label_loss(
            LabelLossSettings(config.label_loss, config.label_loss_options or {}),
            config.label_kind,
            config.num_outputs,
        )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def build(
        cls,
        pretrained: Encoder | str | Path,
        *,
        kind: LabelKind,
        num_outputs: int,
        structure: StructureSettings | None = None,
        pooling: PoolingSettings | None = None,
        head: HeadSettings | None = None,
        loss: ClassifierLossSettings | None = None,
    ) -> "TextClassifier":
        """Open a pretrained encoder and put an untrained head on it.

        The pooling "pooler" starts from the checkpoint's own pooler, where it has one. All other
        new weights are drawn from torch's global generator.

        Args:
            pretrained: An encoder of texts, which is copied; a folder with one; or its name on
                the Hugging Face hub.
            kind: One label a text, several, or a number.
            num_outputs: C, the labels to choose from; 1 for a number.
            structure: Fusion, block and residual wrapper on the encoder.
            pooling: How a text's positions become one vector.
            head: What turns that vector into logits.
            loss: Over the labels.

        Raises:
            CheckpointError: there is no such model, it is one of item ids, or its tensors do not
                fit its config.
            ConfigError: a setting cannot act.
        """
        pooling, head = pooling or PoolingSettings(), head or HeadSettings()
        loss = loss or ClassifierLossSettings()
        if not isinstance(pretrained, Encoder):
            pretrained = open_text_encoder(pretrained)
        config = config_on(
            pretrained,
            ClassifierConfig,
            structure,
            label_kind=kind,
            num_outputs=num_outputs,
            pooling=pooling.name,
            pooling_options=plain_options(pooling.options),
            head=head.name,
            head_dropout=head.dropout,
            head_dropout_samples=head.dropout_samples,
            head_options=plain_options(head.options),
            label_loss=loss.name,
            label_loss_options=plain_options(loss.options),
            auxiliary_share=loss.share,
            r_drop=loss.r_drop,
            r_drop_share=R_DROP_SHARE if loss.r_drop_share is None else loss.r_drop_share,
        )
        model = cls(config)
        model._start_from(pretrained)
        return model

    @torch.no_grad()
    def _start_from(self, pretrained: Encoder) -> None:
        tensors = pretrained.state_dict()
        pooler = {name: tensors.pop(name) for name in list(tensors) if name.startswith("pooler.")}
        pooler = {name.removeprefix("pooler."): tensor for name, tensor in pooler.items()}
        self.backbone.encoder.load_state_dict(tensors)
        if self.config.pooling != "pooler":
            return
        auxiliary = [] if self.auxiliary is None else [self.auxiliary.pooling]
        for pooling in [self.pooling, *auxiliary]:
            if _shapes(pooling.state_dict()) == _shapes(pooler):
                pooling.load_state_dict(pooler)
                self.has_pretrained_pooler |= pooling is self.pooling
            else:
                logger.info("the checkpoint has no such pooler; it is trained from nothing")

    @torch.no_grad()
    def fit(self, targets: Tensor) -> None:
        """Learn from the training labels what no gradient teaches.

        These are class weights, how often labels occur together, and mean and scale of numbers.
        All of it is saved with the weights.

        Args:
            targets: Int64 [N], Float32 [N, C] of 0 and 1, or Float32 [N].
        """
        if self.config.label_kind == "number":
            self.config.target_mean = float(targets.double().mean())
            self.config.target_scale = float(targets.double().std(correction=0)) or 1.0
            return
        if self.config.label_kind == "multi":
            self.head.fit(targets)
        self.loss.fit_targets(targets)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        labels: Shaped[Tensor, "B *C"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ClassifierOutput:
        """Compute the logits, and with labels the loss.

        Args:
            input_ids: Tokens.
            attention_mask: 1 at real positions, 0 at padding; None: all are real.
            token_type_ids: Segments; None: all 0.
            labels: Int64 [B], or Float32 [B, C] of 0 and 1 for several labels, or Float32 [B].
            num_items_in_batch: Texts of the whole batch that this one is a part of, when gradients
                are accumulated or shared; None: those of this one.
        """
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        twice = 0
        if self.training and labels is not None and self.config.r_drop > 0:
            twice = math.ceil(self.config.r_drop_share * len(input_ids))
            input_ids = _again(input_ids, twice)
            inputs = {k: None if v is None else _again(v, twice) for k, v in inputs.items()}
        if self.auxiliary is not None and self.training and labels is not None:
            fused_BLD, last_BLD = self.backbone.forward_with_last(input_ids, **inputs)
            auxiliary_BC = self.auxiliary(last_BLD, inputs["attention_mask"])
        else:
            fused_BLD = self.backbone(input_ids, **inputs)
            auxiliary_BC = None
        logits_BC = self.head(self.pooling(fused_BLD, inputs["attention_mask"])).float()
        if labels is None:
            return ClassifierOutput(logits=logits_BC)
        loss_B = self._training_loss(logits_BC, auxiliary_BC, labels, twice)
        divisor = len(labels) if num_items_in_batch is None else num_items_in_batch
        return ClassifierOutput(loss=loss_B.sum() / divisor, logits=logits_BC[: len(labels)])

    def losses(self, logits_BC: Float[Tensor, "B C"], labels: Tensor) -> Float[Tensor, "B"]:
        """Return the label loss of each text; a number's is that of the scaled number."""
        if self.config.label_kind == "number":
            labels = (labels - self.config.target_mean) / self.config.target_scale
        loss_B: Tensor = self.loss(logits_BC, labels)
        return loss_B

    def probabilities(self, logits_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Return the labels' probabilities; a number has none.

        Raises:
            ConfigError: the model predicts numbers.
        """
        if self.config.label_kind == "number":
            raise ConfigError("This model predicts numbers, which have no probabilities.")
        probabilities_BC: Tensor = self.loss.probabilities(logits_BC)
        return probabilities_BC

    def decide(self, logits_BC: Float[Tensor, "B C"]) -> Shaped[Tensor, "B *C"]:
        """Return labels, Int64 [B]; which of several, Bool [B, C]; or numbers, Float32 [B]."""
        decided: Tensor = self.loss.decide(logits_BC)
        if self.config.label_kind == "number":
            decided = decided * self.config.target_scale + self.config.target_mean
        return decided

    def _training_loss(
        self, logits_BC: Tensor, auxiliary_BC: Tensor | None, labels: Tensor, twice: int
    ) -> Tensor:
        """Return the loss of each text; behind all logits stand the first texts' second ones."""
        given = _again(labels, twice)
        loss_B = self.losses(logits_BC, given)
        if auxiliary_BC is not None:
            share = self.config.auxiliary_share
            loss_B = (1 - share) * loss_B + share * self.losses(auxiliary_BC, given)
        if not twice:
            return loss_B
        size = len(labels)
        distance_B = symmetric_divergence(
            logits_BC[:twice], logits_BC[size:], self.config.label_kind
        )
        if self.loss.averages_labels:
            distance_B = distance_B / self.config.num_outputs
        both_B = (loss_B[:twice] + loss_B[size:]) / 2 + self.config.r_drop * distance_B
        return torch.cat([both_B, loss_B[twice:size]])


def load_text_classifier(folder: str | Path) -> TextClassifier:
    """Open a folder that `save_pretrained` wrote, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, holds another kind of model, or its weights are
            not all there.
    """
    folder = Path(folder)
    model_type = read_model_config(folder).get("model_type")
    if model_type != ClassifierConfig.model_type:
        raise CheckpointError(
            f"{folder} holds a model of type '{model_type}', not a text classifier. Give the "
            "folder of a finished run of nlp_cls."
        )
    return open_saved(TextClassifier, folder)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _again(tensor: Tensor, count: int) -> Tensor:
    """Return the rows, and behind them the first `count` rows once more."""
    return torch.cat([tensor, tensor[:count]]) if count else tensor


AutoConfig.register(ClassifierConfig.model_type, ClassifierConfig)
AutoModelForSequenceClassification.register(ClassifierConfig, TextClassifier)
