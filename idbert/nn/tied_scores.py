"""Scores of all vocabulary rows by the encoder's own embeddings, and their loss at the targets."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import initialization as init

from idbert.errors import ConfigError
from idbert.nn.asked import Asked
from idbert.nn.backbone import BackbonePreTrainedModel
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.item_attributes import AttributeSum
from idbert.nn.item_head import ItemHead
from idbert.nn.losses.catalogue import LossSettings, build_loss
from idbert.nn.products import padded_rows

IGNORED = -100
"""The label of a position without a target."""


class TiedScoresModel(BackbonePreTrainedModel):  # type: ignore[no-untyped-call]
    """Base of the models that name what is hidden: backbone, head, loss over all rows.

    score = transform(hidden) . embedding + bias; see `ItemHead` for other scores. A subclass ends
    its `__init__` with `post_init`.

    Args:
        config: The architecture, and the loss over the rows.

    Attributes:
        first_row: Rows below it are never negatives of a loss that draws some.
    """

    first_row: ClassVar[int] = 0

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.head = ItemHead(config, self.backbone.width)
        settings = LossSettings(config.loss, config.loss_options or {})
        self.loss = build_loss(settings, first_row=self.first_row)
        self.loss.unit_rows = self.head.is_cosine and self.loss.normalises_rows

    def scores(self, hidden: Float[Tensor, "... _"]) -> Float[Tensor, "... V"]:
        """Return the scores of all rows at any of the backbone's vectors, with shifts if any."""
        return self.head.queries(hidden) @ self.head.keys(self._embedding_VD).T + self.head.biases

    def loss_at_targets(
        self,
        hidden_BLX: Float[Tensor, "_ _ _"],
        labels_BL: Int64[Tensor, "B L"],
        num_items_in_batch: Tensor | int | None = None,
        weights_BL: Float[Tensor, "B L"] | None = None,
        asked: Asked | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss at the positions with a label; no other position reaches the head.

        loss = sum of weight * cross-entropy / num_items_in_batch

        Args:
            hidden_BLX: The backbone's vectors, [B, L, X]; at the targets alone where `asked`.
            labels_BL: The right row, or -100 where there is no target.
            num_items_in_batch: Targets of the whole batch that this one is a part of; None: those
                of this one.
            weights_BL: How much each target counts; None: all 1.
            asked: What the backbone was asked for: `asked_at` of these labels' targets.
        """
        if asked is None or asked.rows_P is None:
            rows_M = (labels_BL != IGNORED).flatten().nonzero()[:, 0]
            hidden_PX = padded_rows(hidden_BLX.flatten(0, 1).index_select(0, rows_M))
        else:
            rows_M, hidden_PX = asked.rows_P[: asked.count], hidden_BLX[0]
        targets_M = labels_BL.flatten()[rows_M]
        summed: Tensor = self.loss(
            self.head.queries(hidden_PX)[: len(rows_M)],
            self._embedding_VD if self.loss.unit_rows else self.head.keys(self._embedding_VD),
            self.head.bias,
            targets_M,
            None if weights_BL is None else weights_BL.flatten()[rows_M],
        )
        divisor = max(1, len(targets_M)) if num_items_in_batch is None else num_items_in_batch
        return summed / divisor

    def read_sparsely(self) -> None:
        """Give the embeddings and biases sparse gradients, which hold the rows that are read.

        Raises:
            ConfigError: the loss reads all rows.
        """
        if self.reads_all_rows:
            raise ConfigError(
                f"The loss '{self.config.loss}' reads all rows, so that their gradient is dense. "
                "Choose sampled, gbce or bce."
            )
        if self._attributes is not None:
            raise ConfigError(
                "With attributes (data.attributes) the vectors of items are sums over a whole "
                "table, whose gradient is dense: training.sparse_rows cannot act. Leave it out, or "
                "leave the attributes out."
            )
        self.loss.sparse = self.get_input_embeddings().sparse = True

    def read_densely(self) -> None:
        """Give the embeddings and biases gradients of all rows."""
        self.loss.sparse = self.get_input_embeddings().sparse = False

    @property
    def reads_all_rows(self) -> bool:
        """Whether every step reads the whole table: for the loss, or to bring it to norm 1."""
        normalises = self.loss.normalises_rows or not self.head.is_cosine
        return not (self.loss.draws_rows and normalises)

    @property
    def _embedding_VD(self) -> Tensor:
        """Vectors of all rows: of the id, plus those of its attributes where there are some."""
        weight_VD = self.get_input_embeddings().weight
        return weight_VD if self._attributes is None else weight_VD + self._attributes.table()

    @property
    def _attributes(self) -> AttributeSum | None:
        return self.backbone.encoder.embeddings.attributes

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Grow or shrink the embeddings as transformers does, and the biases with them.

        Rows that remain keep their place; the bias of new ones is 0.

        Args:
            new_num_tokens: V, the new number of rows; None: as it is.
            pad_to_multiple_of: Round V up to a multiple of this.
            mean_resizing: Draw new rows with mean and covariance of the old ones.
        """
        embeddings = super().resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        bias_V = self.head.bias.new_zeros(len(embeddings.weight))
        kept = min(len(bias_V), len(self.head.bias))
        bias_V[:kept] = self.head.bias.detach()[:kept]
        self.head.bias = nn.Parameter(bias_V)
        if self.head.shift_V is not None:
            shift_V = torch.zeros_like(bias_V)
            shift_V[:kept] = self.head.shift_V[:kept]
            self.head.shift_V = shift_V
        if self._attributes is not None:
            self._attributes.resize(len(bias_V))
        return embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ItemHead):
            init.zeros_(module.bias)
            if module.shift_V is not None:
                init.zeros_(module.shift_V)
            if module.log_temperature is not None:
                init.constant_(module.log_temperature, module.first_log_temperature)
