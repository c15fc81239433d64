"""A reader without a pretrained encoder: gated dilated convolutions over characters and words."""

from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init

from idbert.errors import ConfigError
from idbert.nn.blocks import build_block
from idbert.nn.encoder_config import plain_options
from nlp_tasks.mrc.heads import ReaderOutput, SpanHeads
from nlp_tasks.mrc.losses import SpanSettings
from nlp_tasks.mrc.word_vocabulary import (
    NO_WORD,
    NUM_SPECIAL_WORDS,
    SPECIAL_TOKENS,
    UNKNOWN_WORD,
)


@dataclass(frozen=True)
class DgcnnSettings:
    """The reader without a pretrained encoder."""

    width: int = 128
    """Width of the character vectors and of the convolutions."""
    word_width: int = 128
    """Width of the word vectors, which are projected and added to those of the characters; 0: none,
    characters alone are read."""
    word_vectors: str | None = None
    """A file of pretrained word vectors in the text of word2vec, GloVe or fastText. They stay as
    they are; other words have none. Default: those of the training part are learned."""
    question_dilations: tuple[int, ...] = (1, 2, 1)
    """Dilation of each convolution over the question."""
    context_dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1)
    """Dilation of each convolution over the context."""
    kernel_width: int = 3
    """Positions that a convolution reads."""
    dropout: float | int = 0.2
    """Dropout on the vectors of characters and words."""
    gate_dropout: float | int = 0.1
    """Share of the gates' scores that are dropped."""
    min_count: int = 2
    """How often a character or a word must occur in the training part; others are unknown."""
    max_words: int = 50_000
    """Of more words the most frequent are kept; of a file of vectors the first."""

    def __post_init__(self) -> None:
        for name in ("width", "kernel_width", "min_count", "max_words"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.word_width < 0:
            raise ConfigError(f"word_width is {self.word_width}; it must be at least 0.")
        if self.word_vectors is not None and self.word_width != 128:
            raise ConfigError("word_width is that of the word_vectors. Leave it out.")
        if self.word_width == 0 and self.max_words != 50_000:
            raise ConfigError("max_words does not act where word_width is 0. Leave it out.")
        for name in ("question_dilations", "context_dilations"):
            dilations = getattr(self, name)
            if not dilations or min(dilations) < 1:
                raise ConfigError(f"{name} is {dilations}; name dilations of at least 1.")
        for name in ("dropout", "gate_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose from 0 to below 1.")


@no_type_check  # `strict` checks the fields; jaxtyping would refuse those that transformers adds
@strict
class DgcnnReaderConfig(PreTrainedConfig):
    """What is saved beside the weights."""

    model_type = "idbert_dgcnn_reader"

    vocab_size: int = 5000
    num_words: int = 2
    hidden_size: int = 128
    word_width: int = 128
    question_dilations: list[int] | None = None
    context_dilations: list[int] | None = None
    kernel_width: int = 3
    dropout: float | int = 0.2
    gate_dropout: float | int = 0.1
    pad_token_id: int | None = 0
    span_loss: str = "softmax"
    span_loss_options: dict[str, Any] | None = None
    answer_share: float | int = 0.0
    head_dropout: float | int = 0.1


class DgcnnReaderModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Gated dilated convolutions over a question and its context.

    x_t = character_t + W word_t                  each character carries its word's vector
    q   = sum_t softmax(a . h_t) h_t              h: the question's states behind its convolutions
    y_t = V [x_t; q; is the character in the question; is the word] + b
    then the context's convolutions over y, and on [states; q] the heads of every reader. The state
    at position 0, from which "no answer" is read, is that of the whole context: the same weighted
    mean, of the context's states.

    Source: Su 2018, "DGCNN: a reading comprehension model based on CNN" (kexue.fm/archives/5409),
    with the heads of BERT's readers, and of its features those of words in common.

    Args:
        config: Widths, dilations and the heads.
    """

    config_class = DgcnnReaderConfig
    base_model_prefix = "reader"
    accepts_loss_kwargs = True  # tells Trainer that `num_items_in_batch` is honoured

    config: DgcnnReaderConfig

    def __init__(self, config: DgcnnReaderConfig) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        width = config.hidden_size
        self.characters = nn.Embedding(config.vocab_size, width)
        self.words = (
            nn.Embedding(config.num_words, config.word_width) if config.word_width else None
        )
        self.word_projection = (
            nn.Linear(config.word_width, width, bias=False) if config.word_width else None
        )
        self.dropout = nn.Dropout(config.dropout)
        options = {"kernel_width": config.kernel_width, "gate_dropout": config.gate_dropout}
        dilations = {"dilations": config.question_dilations}
        self.question_block = build_block("dgcnn", width, None, options | dilations)
        self.attention = nn.Linear(width, 1, bias=False)
        num_features = 2 if config.word_width else 1
        self.mix = nn.Linear(2 * width + num_features, width)
        dilations = {"dilations": config.context_dilations}
        self.context_block = build_block("dgcnn", width, None, options | dilations)
        self.context_attention = nn.Linear(width, 1, bias=False)
        self.heads = SpanHeads(
            2 * width,
            config.span_loss,
            config.span_loss_options,
            config.answer_share,
            config.head_dropout,
        )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def build(
        cls,
        settings: DgcnnSettings,
        *,
        vocab_size: int,
        num_words: int,
        span: SpanSettings | None = None,
        word_vectors: Float32[np.ndarray, "_ D"] | None = None,
    ) -> "DgcnnReaderModel":
        """Make an untrained reader; its weights are drawn from torch's global generator.

        Args:
            settings: Widths and dilations.
            vocab_size: V, characters and special tokens.
            num_words: Rows of the word vectors.
            span: The heads and their loss.
            word_vectors: Of all words but the first two ids, and not to be trained; None: they are
                drawn and trained.
        """
        span = span or SpanSettings()
        width = settings.word_width if word_vectors is None else word_vectors.shape[1]
        model = cls(
            DgcnnReaderConfig(
                vocab_size=vocab_size,
                num_words=num_words,
                hidden_size=settings.width,
                word_width=width,
                question_dilations=list(settings.question_dilations),
                context_dilations=list(settings.context_dilations),
                kernel_width=settings.kernel_width,
                dropout=settings.dropout,
                gate_dropout=settings.gate_dropout,
                span_loss=span.name,
                span_loss_options=plain_options(span.options),
                answer_share=span.answer_share,
                head_dropout=span.dropout,
            )
        )
        if word_vectors is not None:
            assert model.words is not None
            rows = np.concatenate([np.zeros((NUM_SPECIAL_WORDS, width), np.float32), word_vectors])
            model.words.weight = nn.Parameter(torch.from_numpy(rows), requires_grad=False)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw vectors of length about 1; all else is as torch initialises it."""
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)

    @property
    def max_length(self) -> int | None:
        """Most tokens of a window: there is no limit."""
        return None

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        token_type_ids: Int[Tensor, "B L"],
        word_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        context_mask: Shaped[Tensor, "B L"] | None = None,
        start_positions: Int[Tensor, "B"] | None = None,
        end_positions: Int[Tensor, "B"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ReaderOutput:
        """Compute the logits, and with positions the loss.

        Args:
            input_ids: Characters: question and context, with the special tokens of a pair.
            token_type_ids: 0 at the question, 1 at the context.
            word_ids: The word that each character is in; needed where words are read.
            attention_mask: 1 at real positions, 0 at padding; None: all are real.
            context_mask: 1 where an answer can begin or end, and at position 0; None: anywhere.
            start_positions: Where the answer begins; 0: there is none.
            end_positions: Where it ends.
            num_items_in_batch: Windows of the whole batch that this one is a part of; None: those
                of this one.
        """
        is_real_BL = torch.ones_like(input_ids).bool()
        if attention_mask is not None:
            is_real_BL = attention_mask.bool()
        in_question_BL = is_real_BL & token_type_ids.eq(0)
        in_context_BL = is_real_BL & token_type_ids.eq(1)
        known_BL = input_ids.ge(len(SPECIAL_TOKENS))  # two unknown characters need not be the same
        shared = [_is_shared(input_ids, in_question_BL & known_BL)]
        mixed_BLD = self.characters(input_ids)
        if self.words is not None and self.word_projection is not None:
            if word_ids is None:
                raise ConfigError("This reader reads words too, and the batch has no word_ids.")
            mixed_BLD = mixed_BLD + self.word_projection(self.words(word_ids))
            known_BL = word_ids.ne(NO_WORD) & word_ids.ne(UNKNOWN_WORD)
            shared.append(_is_shared(word_ids, in_question_BL & known_BL))
        mixed_BLD = self.dropout(mixed_BLD)

        asked_BLD = self.question_block(mixed_BLD, in_question_BL)
        question_BLD = _pooled(asked_BLD, self.attention(asked_BLD), in_question_BL)[:, None]
        question_BLD = question_BLD.expand_as(mixed_BLD)
        features_BLX = torch.stack(shared, dim=-1).to(mixed_BLD.dtype)
        read_BLD = self.mix(torch.cat([mixed_BLD, question_BLD, features_BLX], dim=-1))
        read_BLD = self.context_block(read_BLD, in_context_BL)
        whole_BD = _pooled(read_BLD, self.context_attention(read_BLD), in_context_BL)
        read_BLD = torch.cat([whole_BD[:, None], read_BLD[:, 1:]], dim=1)
        output: ReaderOutput = self.heads(
            torch.cat([read_BLD, question_BLD], dim=-1),
            context_mask,
            start_positions,
            end_positions,
            num_items_in_batch,
        )
        return output

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the vectors of the characters."""
        return self.characters

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the vectors of the characters."""
        assert isinstance(value, nn.Embedding)
        self.characters = value


def _is_shared(ids_BL: Int[Tensor, "B L"], asked_BL: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """Return which ids also stand where the question is."""
    return ((ids_BL[:, :, None] == ids_BL[:, None, :]) & asked_BL[:, None, :]).any(dim=2)


def _pooled(
    hidden_BLD: Float[Tensor, "B L D"],
    scores_BL1: Float[Tensor, "B L 1"],
    mask_BL: Bool[Tensor, "B L"],
) -> Float[Tensor, "B D"]:
    """Return the mean of the states under the mask, weighted by the softmax of their scores."""
    weights_BL1 = scores_BL1.float().masked_fill(~mask_BL[:, :, None], -1e9).softmax(dim=1)
    pooled_BD: Tensor = (weights_BL1.to(hidden_BLD.dtype) * hidden_BLD).sum(dim=1)
    return pooled_BD


AutoConfig.register(DgcnnReaderConfig.model_type, DgcnnReaderConfig)
AutoModelForQuestionAnswering.register(DgcnnReaderConfig, DgcnnReaderModel)
