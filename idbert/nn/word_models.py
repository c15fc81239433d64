"""Masked words: an encoder of texts under the heads that BERT is pretrained with."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.utils.generic import ModelOutput

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.asked import asked_at
from idbert.nn.encoder import Encoder
from idbert.nn.encoder_config import EncoderConfig, plain_options
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.saved_models import open_saved
from idbert.nn.structure import StructureSettings
from idbert.nn.tied_scores import IGNORED, TiedScoresModel
from idbert.nn.word_config import SEGMENTS, WordConfig, WordEncoderSettings
from idbert.nn.word_heads import WordHeads

logger = logging.getLogger(__name__)


@dataclass
class WordModelOutput(ModelOutput):
    """What `MaskedWordModel.forward` returns.

    Attributes:
        loss: The sum of the losses whose labels were given, a scalar; None without labels.
        logits: Scores of all words at all positions, [B, L, V]; None where labels were given.
        next_sentence_logits: Whether the second text follows the first (0) or not (1), [B, 2]; None
            without the head.
    """

    loss: Any = None
    logits: Tensor | None = None
    next_sentence_logits: Tensor | None = None


class MaskedWordModel(TiedScoresModel):  # type: ignore[no-untyped-call]
    """Restores masked words, and with a next-sentence head tells whether two texts belong together.

    The masked-word head is that of the item models: scores are computed at masked positions alone,
    and the output embeddings are the input embeddings. The next-sentence head reads BERT's pooler.

    Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", section 3.1.

    Args:
        config: Of the encoder and its heads.

    Raises:
        ConfigError: the encoder is causal, and a masked word would not be seen from both sides.
    """

    config_class = WordConfig

    config: WordConfig

    def __init__(self, config: WordConfig) -> None:
        if config.is_causal:
            raise ConfigError(
                "A masked word is restored from both sides, and this encoder is causal. Give a "
                "bidirectional one."
            )
        if config.next_sentence:
            config.add_pooler = True
        super().__init__(config)
        self.next_sentence = nn.Linear(config.hidden_size, 2) if config.next_sentence else None
        pooler = self.backbone.encoder.pooler
        if pooler is not None and self.next_sentence is None:
            # Kept as the checkpoint's, for a classifier to start from; nothing here trains it.
            pooler.requires_grad_(False)
        self.post_init()

    @classmethod
    def build(
        cls,
        settings: WordEncoderSettings,
        *,
        vocab_size: int,
        pad_token_id: int = 0,
        next_sentence: bool = False,
        loss: LossSettings | None = None,
    ) -> "MaskedWordModel":
        """Make an untrained model; its weights are drawn from torch's global generator.

        Args:
            settings: The architecture.
            vocab_size: V, tokens of the vocabulary, special ones included.
            pad_token_id: The tokenizer's.
            next_sentence: Whether to add the next-sentence head.
            loss: The loss over the vocabulary. Default: the chunked softmax.
        """
        encoder_config = settings.to_config(vocab_size=vocab_size, type_vocab_size=SEGMENTS)
        encoder_config.pad_token_id = pad_token_id
        return cls(_config_of(encoder_config, next_sentence, loss))

    @classmethod
    def continue_from(
        cls,
        encoder: Encoder,
        heads: WordHeads,
        *,
        next_sentence: bool = False,
        loss: LossSettings | None = None,
    ) -> "MaskedWordModel":
        """Make a model that begins with a checkpoint's weights; the log says which it lacks.

        Args:
            encoder: Of the checkpoint, as `Encoder.from_pretrained` opens it; copied.
            heads: Of the same checkpoint, from `read_word_heads`. Those that it lacks are drawn
                from torch's global generator.
            next_sentence: Whether the model has the next-sentence head.
            loss: The loss over the vocabulary. Default: the chunked softmax.

        Raises:
            CheckpointError: a head does not fit the encoder.
            ConfigError: the encoder is causal.
        """
        config = _config_of(encoder.config, next_sentence, loss)
        if heads.structure is None:
            StructureSettings().apply_to(config)
        model = cls(config)
        tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        _load(model.backbone, tensors | (heads.structure or {}), heads.source, optional="pooler.")
        parts: list[tuple[str, nn.Module, dict[str, Tensor]]] = [
            ("masked-word", model.head, heads.words)
        ]
        if model.next_sentence is not None:
            if encoder.pooler is None:
                logger.info("%s has no pooler; it is trained from nothing", heads.source)
            parts.append(("next-sentence", model.next_sentence, heads.next_sentence))
        for name, head, of_checkpoint in parts:
            if of_checkpoint:
                _load(head, of_checkpoint, heads.source)
                logger.info("%s: the %s head is the checkpoint's", heads.source, name)
            else:
                logger.info("%s has no %s head; it is trained from nothing", heads.source, name)
        return model

    @property
    def counted_labels(self) -> dict[str, str]:
        """Labels that a trainer counts beside `labels`, and the argument that gets their number."""
        has_pairs = self.next_sentence is not None
        return {"next_sentence_labels": "num_pairs_in_batch"} if has_pairs else {}

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        labels: Int64[Tensor, "B L"] | None = None,
        next_sentence_labels: Int64[Tensor, "B"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        num_pairs_in_batch: Tensor | int | None = None,
    ) -> WordModelOutput:
        """Compute the loss at the masked positions, or without labels all scores.

        loss = sum of cross-entropies of the words / num_items_in_batch
             + sum of cross-entropies of the pairs / num_pairs_in_batch

        Args:
            input_ids: Tokens.
            attention_mask: 1 at real positions, 0 at padding; None: all are real.
            token_type_ids: Segments; None: all 0.
            labels: The right token, or -100 where there is no target.
            next_sentence_labels: 0 where the second text follows the first, 1 where it does not,
                -100 where nobody asks.
            num_items_in_batch: Targets of the whole batch that this one is a part of, when
                gradients are accumulated or shared; None: those of this one.
            num_pairs_in_batch: The same of next_sentence_labels.

        Raises:
            ConfigError: there are next_sentence_labels and no head for them.
        """
        texts: dict[str, Any] = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        if labels is not None and next_sentence_labels is None and self.next_sentence is None:
            asked = asked_at(labels != IGNORED)
            hidden_BLX = self.backbone(input_ids, queries=asked, **texts)
            loss = self.loss_at_targets(hidden_BLX, labels, num_items_in_batch, asked=asked)
            return WordModelOutput(loss=loss)
        hidden_BLX, last_BLD = self.backbone.forward_with_last(input_ids, **texts)
        pair_BC = None if self.next_sentence is None else self.next_sentence_scores(last_BLD)
        if labels is None and next_sentence_labels is None:
            return WordModelOutput(logits=self.scores(hidden_BLX), next_sentence_logits=pair_BC)
        losses = []
        if labels is not None:
            losses.append(self.loss_at_targets(hidden_BLX, labels, num_items_in_batch))
        if next_sentence_labels is not None:
            if pair_BC is None:
                raise ConfigError(
                    "There are next_sentence_labels, and the model has no next-sentence head. "
                    "Build it with next_sentence=True."
                )
            summed = F.cross_entropy(
                pair_BC.float(), next_sentence_labels, ignore_index=IGNORED, reduction="sum"
            )
            if num_pairs_in_batch is None:
                num_pairs_in_batch = (next_sentence_labels != IGNORED).sum().clamp(min=1)
            losses.append(summed / num_pairs_in_batch)
        return WordModelOutput(loss=sum(losses), next_sentence_logits=pair_BC)

    def next_sentence_scores(self, last_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B C"]:
        """Return the scores of "the second text follows" and "it does not", [B, 2].

        Args:
            last_BLD: The encoder's last state, as `backbone.forward_with_last` returns it.

        Raises:
            ConfigError: the model has no next-sentence head.
        """
        pooler = self.backbone.encoder.pooler
        if self.next_sentence is None or pooler is None:
            raise ConfigError("This model has no next-sentence head.")
        scores_BC: Tensor = self.next_sentence(pooler(last_BLD))
        return scores_BC


def load_word_model(folder: str | Path) -> MaskedWordModel:
    """Open a folder that `MaskedWordModel.save_pretrained` wrote, in evaluation mode.

    Raises:
        CheckpointError: the weights cannot be read, or are not those of the config.
    """
    return open_saved(MaskedWordModel, Path(folder))


def _config_of(
    encoder_config: EncoderConfig, next_sentence: bool, loss: LossSettings | None
) -> WordConfig:
    """Return the config of a model on such an encoder."""
    loss = loss or LossSettings()
    known = {name: getattr(encoder_config, name) for name in EncoderConfig.__annotations__}
    known |= {"loss": loss.name, "loss_options": plain_options(loss.options)}
    config: WordConfig = WordConfig(**known, next_sentence=next_sentence)
    config._attn_implementation = encoder_config._attn_implementation
    return config


@torch.no_grad()
def _load(part: nn.Module, tensors: dict[str, Tensor], source: str, optional: str = "?") -> None:
    """Copy tensors into a part of the model; those named `optional` may be missing.

    Raises:
        CheckpointError: one is missing, left over, or of another shape.
    """
    own = part.state_dict()
    wrong = [name for name in own if name not in tensors and optional not in name]
    wrong += [name for name in tensors if name not in own]
    wrong += [
        f"{name} {list(tensor.shape)}, not {list(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"The heads of '{source}' do not fit its encoder: {', '.join(wrong[:5])}. Check that "
            "weights and config are of one model and copied whole."
        )
    part.load_state_dict(tensors, strict=False)


AutoConfig.register(WordConfig.model_type, WordConfig)
AutoModelForMaskedLM.register(WordConfig, MaskedWordModel)
