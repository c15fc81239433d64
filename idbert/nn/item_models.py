"""Sequence recommenders: backbone, tied item scores, loss.

Trained for masked items (bidirectional) or for the next item (causal). A model meets its data in a
batch, whose keys are the names of `forward`'s arguments.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Integer
from torch import Tensor
from transformers.utils.generic import ModelOutput

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.asked import asked_at
from idbert.nn.backbone import check_same_architecture
from idbert.nn.blocks.block import NO_BLOCK
from idbert.nn.checkpoints import TOKEN_TABLE
from idbert.nn.config import EncoderConfig, EncoderSettings
from idbert.nn.encoder_config import plain_options
from idbert.nn.frequency_start import take_rows, taken_biases
from idbert.nn.losses.catalogue import LossSettings, check_negatives
from idbert.nn.modes import evaluation_mode
from idbert.nn.products import fast_products
from idbert.nn.saved_models import open_saved
from idbert.nn.tied_scores import IGNORED, TiedScoresModel
from idbert.rows import FIRST_ITEM

Batch = dict[str, Tensor]
"""Tensors by the names of `ItemModel.forward`'s arguments."""

Model = TypeVar("Model", bound="ItemModel")


@dataclass
class ItemModelOutput(ModelOutput):
    """What `ItemModel.forward` returns: the loss where labels were given, else the scores.

    Attributes:
        loss: The targets' summed loss over their number, a scalar.
        logits: Scores of all vocabulary rows at all positions, [B, L, V].
    """

    loss: Any = None  # Tensor | None; accelerate hands the first field a dict of all of them
    logits: Tensor | None = None


class ItemModel(TiedScoresModel):  # type: ignore[no-untyped-call]
    """Base of the item models; use `MaskedItemModel`, `NextItemModel` or `MixedItemModel`.

    A score is transform(hidden) . item embedding + item bias, or a cosine in place of the inner
    product, over a temperature, perhaps with a shift (see `ItemHead`). Vectors of users and items
    carry the bias as one more component, so that their inner product is the score.

    Raises:
        ConfigError: the config is of the other direction.
    """

    trained_for: ClassVar[Literal["masked", "next", "mixed"]]
    """Whether its batches are of masked items, of next items, or some of each."""

    is_causal: ClassVar[bool | None]
    """Whether a position sees only itself and those before it; None: the config says so of what it
    is used for, and each batch of its own."""

    first_row = FIRST_ITEM

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        if self.is_causal not in (None, config.is_causal):
            raise ConfigError(
                f"{type(self).__name__} needs is_causal={self.is_causal}, and the config says "
                f"is_causal={config.is_causal}. Make models with {type(self).__name__}.build, and "
                "open saved ones with load_item_model."
            )
        super().__init__(config)
        self.post_init()

    @property
    def objective(self) -> Literal["masked", "next"]:
        """How a history becomes a query: a mask behind the newest item, or the newest item."""
        return "next" if self.config.is_causal else "masked"

    def history_limit(self, max_length: int | None) -> int | None:
        """Return how many positions a history may take, as in training; None: any number.

        Args:
            max_length: Most events of a sequence in training; None: no limit. The newest event of a
                sequence is only a target to a next-item model, which never reads so many.
        """
        if max_length is not None and self.objective == "next":
            max_length = max(1, max_length - 1)
        limits = [limit for limit in (self.max_length, max_length) if limit is not None]
        return min(limits, default=None)

    @classmethod
    def build(
        cls: type[Model],
        settings: EncoderSettings,
        *,
        vocab_size: int,
        num_behaviours: int = 0,
        loss: LossSettings | None = None,
        item_counts: Int64[np.ndarray, "V"] | None = None,
        is_causal: bool | None = None,
        attributes: Int64[np.ndarray, "V _"] | None = None,
        popularity_shift: Float32[np.ndarray, "V"] | None = None,
    ) -> Model:
        """Make an untrained model; its weights are drawn from torch's global generator.

        Args:
            settings: The architecture.
            vocab_size: V, rows of the vocabulary, special rows included.
            num_behaviours: Kinds of events (view, buy, ...); 0 where the log has no such column.
            loss: The loss over the catalogue. Default: the chunked softmax.
            item_counts: Training events of each row, for a loss that draws negatives by popularity.
            is_causal: What a model that is trained for both is used for: the next item, or a
                masked one; None: as the class says.
            attributes: Numbers of each row's attributes, from 1 on, filled up with 0, as
                `inputs.attributes.attribute_rows` makes them; None: items have none.
            popularity_shift: What is added to each row's score, but in the loss, as
                `inputs.popularity.popularity_shift` makes it; None: nothing.

        Raises:
            ConfigError: the settings do not fit one another, or the loss is told to draw more
                negatives than there are items.
        """
        is_causal = cls.is_causal if is_causal is None else is_causal
        if is_causal is None:
            raise ConfigError(f"Say with is_causal what the {cls.__name__} is used for.")
        config = settings.to_config(
            vocab_size=vocab_size,
            is_causal=is_causal,
            type_vocab_size=max(1, num_behaviours),
        )
        loss = loss or LossSettings()
        check_negatives(loss, vocab_size - cls.first_row)
        config.loss, config.loss_options = loss.name, plain_options(loss.options)
        if attributes is not None:
            config.num_attributes = int(attributes.max())
            config.attributes_per_item = attributes.shape[1]
        config.shifts_popularity = popularity_shift is not None
        model = cls(config)
        if model.head.shift_V is not None and popularity_shift is not None:
            model.head.shift_V.copy_(torch.from_numpy(popularity_shift))
        if model._attributes is not None:
            model._attributes.rows_VG.copy_(torch.from_numpy(attributes))
        if item_counts is not None:
            model.loss.fit(torch.from_numpy(item_counts))
        return model

    @torch.no_grad()
    def start_from(
        self, pretrained: "ItemModel", rows_V: Int64[np.ndarray, "V"] | None = None
    ) -> None:
        """Take over another model's backbone and item biases, whatever it was trained for.

        The head's transform is taken over where both models have the same kind of one, and the
        temperature where both have learned it.

        Args:
            pretrained: With the same backbone.
            rows_V: For each row of this model the pretrained one's row of the same item, or NO_ROW:
                such rows are drawn like the others, and have their mean bias. None: both are over
                the same vocabulary.

        Raises:
            ConfigError: the backbones differ in shape, or compute different things, or items have
                other attributes, or have any and are over another vocabulary.
        """
        check_same_architecture(pretrained.backbone, self.backbone, same_rows=rows_V is None)
        if rows_V is not None:
            self._take_over_rows(pretrained, rows_V)
            return
        theirs, ours = pretrained._attributes, self._attributes
        if theirs and ours and not torch.equal(theirs.rows_VG.to(ours.rows_VG), ours.rows_VG):
            raise ConfigError(
                "The pretrained items have other attributes. Give both stages the same table of "
                "items and the same data.attributes."
            )
        self.backbone.load_state_dict(pretrained.backbone.state_dict())
        self.head.bias.copy_(pretrained.head.bias)
        self._take_over_head(pretrained)

    def _take_over_rows(self, pretrained: "ItemModel", rows_V: np.ndarray) -> None:
        if pretrained._attributes or self._attributes:
            raise ConfigError(
                "A model whose items have attributes cannot start from one over another catalogue: "
                "their numbers may mean other values there. Leave data.attributes out of both, or "
                "train from nothing."
            )
        theirs = pretrained.backbone.state_dict()
        state = {name: tensor for name, tensor in theirs.items() if not name.endswith(TOKEN_TABLE)}
        self.backbone.load_state_dict(state, strict=False)
        take_rows(
            self.get_input_embeddings().weight, pretrained.get_input_embeddings().weight, rows_V
        )
        self.head.bias.copy_(taken_biases(pretrained.head.bias, rows_V))
        self._take_over_head(pretrained)

    def _take_over_head(self, pretrained: "ItemModel") -> None:
        if type(self.head.transform) is type(pretrained.head.transform):
            self.head.transform.load_state_dict(pretrained.head.transform.state_dict())
        if self.head.log_temperature is not None and pretrained.head.log_temperature is not None:
            self.head.log_temperature.copy_(pretrained.head.log_temperature)

    def forward(
        self,
        input_ids: Int64[Tensor, "B L"],
        *,
        attention_mask: Integer[Tensor, "B L"] | Bool[Tensor, "B L"] | None = None,
        token_type_ids: Int64[Tensor, "B L"] | None = None,
        position_ids: Int64[Tensor, "#B L"] | None = None,
        timestamps: Int64[Tensor, "B L"] | None = None,
        query_timestamps: Int64[Tensor, "B L"] | None = None,
        labels: Int64[Tensor, "B L"] | None = None,
        weights: Float[Tensor, "B L"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        is_causal: Bool[Tensor, ""] | None = None,
    ) -> ItemModelOutput:
        """Compute the loss at the positions with a label, or without labels all scores.

        loss = sum of weight * cross-entropy / num_items_in_batch. The weights do not enter the
        divisor; those of a log are scaled to mean 1.

        Args:
            input_ids: Vocabulary rows.
            attention_mask: 1 at real positions, 0 at padding; None: all are real.
            token_type_ids: Behaviour of each position; None: all 0.
            position_ids: Positions other than 0, 1, 2, ...
            timestamps: Of each event, in seconds, for a model with a time bias.
            query_timestamps: Of the item that each position is asked for, for a next-item model
                whose time bias reads the query's time.
            labels: The right row, or -100 where there is no target; only positions with a target
                reach the head.
            weights: How much each target counts; None: all 1.
            num_items_in_batch: Targets of the whole batch that this one is a part of, when
                gradients are accumulated or shared; None: those of this one.
            is_causal: Whether this batch is read from the past alone; None: as the config says.
        """
        asked = None if labels is None else asked_at(labels != IGNORED)
        hidden_BLX = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            queries=asked,
            timestamps=timestamps,
            query_timestamps=query_timestamps,
            is_causal=None if is_causal is None else bool(is_causal),
        )
        if labels is None:
            return ItemModelOutput(logits=self.scores(hidden_BLX))
        loss = self.loss_at_targets(hidden_BLX, labels, num_items_in_batch, weights, asked)
        return ItemModelOutput(loss=loss)

    @torch.no_grad()
    def item_vectors(self) -> Float32[Tensor, "V _"]:
        """Return every row's embedding with its bias as one more component, [V, D+1].

        Where the score is a cosine, the embedding is at norm 1. The special rows are there too;
        their scores mean nothing.
        """
        keys_VD = self.head.keys(self._embedding_VD)
        return torch.cat([keys_VD, self.head.biases[:, None]], dim=1).float()

    @torch.no_grad()
    def encode_users(
        self, batches: Iterable[tuple[Int64[np.ndarray, "B"], Batch]], num_users: int
    ) -> Float32[Tensor, "U _"]:
        """Return one vector a user, [U, D+1]; `user_vectors @ item_vectors().T` are the scores.

        It is the head's vector at the last real position, over the temperature, with a 1 for the
        bias behind it. Dropout is off meanwhile.

        Args:
            batches: Pairs of the users' positions in the result and a right-padded batch, as
                `inputs.item_batches.history_batches` makes them for this model's `objective`.
            num_users: U; a user that is in no batch gets zeros.
        """
        users_UD = torch.zeros(num_users, self.config.hidden_size + 1, device=self.device)
        with evaluation_mode(self), fast_products():
            for positions_B, batch in batches:
                batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
                query_BD = self.head.queries(self._query_states(**batch))
                rows_B = torch.from_numpy(positions_B).to(self.device)
                users_UD[rows_B, :-1] = query_BD.float()
                users_UD[rows_B, -1] = 1
        return users_UD

    def _query_states(
        self, input_ids: Tensor, *, attention_mask: Tensor, **inputs: Tensor
    ) -> Tensor:
        """Return the backbone's vectors at the last real position of each sequence."""
        hidden_B1X: Tensor = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            queries=attention_mask.sum(1, keepdim=True) - 1,
            **inputs,
        )
        return hidden_B1X[:, 0]


class MaskedItemModel(ItemModel):  # type: ignore[no-untyped-call]
    """Restores masked items from both sides of a history.

    Source: Sun et al. 2019, "BERT4Rec: Sequential Recommendation with Bidirectional Encoder
    Representations from Transformer".
    """

    trained_for = "masked"
    is_causal = False


class NextItemModel(ItemModel):  # type: ignore[no-untyped-call]
    """Predicts the next item at every position, from the items before it.

    Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation" (SASRec), with a
    softmax over the whole catalogue as its loss.
    """

    trained_for = "next"
    is_causal = True


class MixedItemModel(ItemModel):  # type: ignore[no-untyped-call]
    """Trained on batches of masked items, read from both sides, and of next items, read causally.

    The encoder's weights are the same for both; it is used for one of them, as its config says.

    Source: Dong et al. 2019, "Unified Language Model Pre-training for Natural Language
    Understanding and Generation" (UniLM).

    Raises:
        ConfigError: there is a block, which reads in one direction for good, or a time bias.
    """

    trained_for = "mixed"
    is_causal = None

    def __init__(self, config: EncoderConfig) -> None:
        if config.block != NO_BLOCK:
            raise ConfigError(
                f"The block '{config.block}' reads in one direction, and a mixed objective in "
                "both. Leave the block out, or choose another objective."
            )
        if config.reads_times != "none":
            raise ConfigError(
                "A mixed objective reads no times: set time_bias.name to none, or choose another "
                "objective."
            )
        super().__init__(config)


ITEM_MODELS: dict[str, type[ItemModel]] = {
    model.__name__: model for model in (MaskedItemModel, NextItemModel, MixedItemModel)
}


def load_item_model(folder: str | Path) -> ItemModel:
    """Open a folder that `save_pretrained` wrote, as the class that wrote it, in eval mode.

    Raises:
        CheckpointError: the folder is missing, holds another kind of model, or its weights are
            not all there.
    """
    folder = Path(folder)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise CheckpointError(
            f"{folder} holds no config.json. Give the folder of a model, such as RUN/model."
        )
    try:
        architectures = json.loads(config_file.read_text(encoding="utf-8")).get("architectures")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{config_file} is not the config of a model: {error}.") from error
    name = architectures[0] if architectures else None
    if name not in ITEM_MODELS:
        raise CheckpointError(
            f"{folder} holds a model of class {name}, not one of {', '.join(ITEM_MODELS)}. "
            "Encoders are opened with Encoder.from_pretrained."
        )
    return open_saved(ITEM_MODELS[name], folder)
