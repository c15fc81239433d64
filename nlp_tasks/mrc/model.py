"""The reader on a pretrained encoder: backbone, and heads for start, end and has-answer."""

import json
import logging
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from transformers import AutoConfig, AutoModelForQuestionAnswering

from idbert.nn.backbone import BackbonePreTrainedModel
from idbert.nn.blocks.block import NO_BLOCK
from idbert.nn.checkpoints import CONFIG_FILES, WEIGHT_FILES, find_file, read_tensors
from idbert.nn.encoder import Encoder
from idbert.nn.encoder_config import plain_options
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.encoders import config_on, open_text_encoder
from nlp_tasks.mrc.config import ReaderConfig
from nlp_tasks.mrc.heads import ReaderOutput, SpanHeads
from nlp_tasks.mrc.losses import SpanSettings

logger = logging.getLogger(__name__)

SPAN_HEAD = ("qa_outputs.weight", "qa_outputs.bias")
"""The head of a published reader, by the names of BertForQuestionAnswering."""


class ReaderModel(BackbonePreTrainedModel):  # type: ignore[no-untyped-call]
    """Backbone > dropout > start and end logits; has-answer from the first position.

    Without structure, and in evaluation, start and end logits are those of transformers'
    BertForQuestionAnswering with the same weights.

    Args:
        config: Of the encoder and of the heads.
    """

    config_class = ReaderConfig

    config: ReaderConfig

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        self.heads = SpanHeads(
            self.backbone.width,
            config.span_loss,
            config.span_loss_options,
            config.answer_share,
            config.head_dropout,
        )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def build(
        cls,
        pretrained: Encoder | str | Path,
        *,
        structure: StructureSettings | None = None,
        span: SpanSettings | None = None,
        head_from: str | Path | None = None,
    ) -> "ReaderModel":
        """Open a pretrained encoder and put heads on it.

        New weights are drawn from torch's global generator.

        Args:
            pretrained: An encoder of texts, which is copied; a folder with one; or its name on the
                Hugging Face hub.
            structure: Fusion, block and residual wrapper on the encoder.
            span: The heads and their loss.
            head_from: A folder or name whose head for start and end is taken over, if it has one
                and no block stands between; by default `pretrained`, where that is no encoder.

        Raises:
            CheckpointError: there is no such model, it is one of item ids, or its tensors do not
                fit its config.
            ConfigError: a setting cannot act.
        """
        span = span or SpanSettings()
        if not isinstance(pretrained, Encoder):
            head_from = head_from or pretrained
            pretrained = open_text_encoder(pretrained)
        config = config_on(
            pretrained,
            ReaderConfig,
            structure,
            span_loss=span.name,
            span_loss_options=plain_options(span.options),
            answer_share=span.answer_share,
            head_dropout=span.dropout,
        )
        model = cls(config)
        tensors = pretrained.state_dict()
        of_encoder = {n: t for n, t in tensors.items() if not n.startswith("pooler.")}
        model.backbone.encoder.load_state_dict(of_encoder)
        if head_from is not None and model.backbone.block is None:
            model._take_head(head_from)
        return model

    @torch.no_grad()
    def _take_head(self, folder_or_name: str | Path) -> None:
        theirs = json.loads(find_file(str(folder_or_name), CONFIG_FILES, {}).read_text("utf-8"))
        own = (NO_BLOCK, self.config.fusion)
        if (theirs.get("block", NO_BLOCK), theirs.get("fusion", "last")) != own:
            logger.info("%s: its head read another structure, and is left out", folder_or_name)
            return
        head = self.heads.qa_outputs
        tensors = read_tensors(find_file(str(folder_or_name), WEIGHT_FILES, {}))
        found = {
            wanted.rpartition(".")[2]: tensor
            for wanted in SPAN_HEAD
            for name, tensor in tensors.items()
            if name.endswith(wanted)
        }
        shapes = {name: own.shape for name, own in head.state_dict().items()}
        if {name: tensor.shape for name, tensor in found.items()} == shapes:
            head.load_state_dict(found)
            logger.info("%s: the head for start and end is the checkpoint's", folder_or_name)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        context_mask: Shaped[Tensor, "B L"] | None = None,
        start_positions: Int[Tensor, "B"] | None = None,
        end_positions: Int[Tensor, "B"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ReaderOutput:
        """Compute the logits, and with positions the loss.

        Args:
            input_ids: Tokens: question and context.
            attention_mask: 1 at real positions, 0 at padding; None: all are real.
            token_type_ids: Segments; None: all 0.
            context_mask: 1 where an answer can begin or end, and at position 0; None: anywhere.
            start_positions: Where the answer begins; 0: there is none.
            end_positions: Where it ends.
            num_items_in_batch: Windows of the whole batch that this one is a part of, when
                gradients are accumulated or shared; None: those of this one.
        """
        hidden_BLX = self.backbone(
            input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        output: ReaderOutput = self.heads(
            hidden_BLX, context_mask, start_positions, end_positions, num_items_in_batch
        )
        return output


AutoConfig.register(ReaderConfig.model_type, ReaderConfig)
AutoModelForQuestionAnswering.register(ReaderConfig, ReaderModel)
