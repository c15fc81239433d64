"""The encoder's input: token, segment or behaviour, and for BERT absolute position."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from idbert.errors import ConfigError, ShapeError
from idbert.nn.dropout import Dropout
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.item_attributes import AttributeSum


class Embeddings(nn.Module):
    """Sum of the embeddings, LayerNorm, dropout; parameters named as in BERT.

    Shapes:
        input_ids [B, L] -> embedded_BLD.

    Raises:
        ShapeError: a sequence is longer than BERT's position table.
        ConfigError: position_ids are given to NEZHA.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(
            config.vocab_size, width, padding_idx=config.pad_token_id
        )
        self.attributes = AttributeSum(config) if config.num_attributes else None
        self.position_embeddings = (
            None
            if config.max_position_embeddings is None
            else nn.Embedding(config.max_position_embeddings, width)
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Return the embedding output; without `token_type_ids` all are of type 0."""
        # Where ids are left out, table rows are read by slicing: a lookup would cost a gradient
        # scattered from every token of the batch. The order of the sum is BERT's, to the last bit.
        type_table = self.token_type_embeddings
        types = type_table.weight[0] if token_type_ids is None else type_table(token_type_ids)
        summed_BLD = self.word_embeddings(input_ids) + types
        if self.attributes is not None:
            summed_BLD = summed_BLD + self.attributes(input_ids)
        if self.position_embeddings is not None:
            summed_BLD = summed_BLD + self._positions(
                self.position_embeddings, input_ids.shape[1], position_ids
            )
        elif position_ids is not None:
            raise ConfigError("NEZHA has no absolute positions: leave position_ids out.")
        embedded_BLD: Tensor = self.dropout(self.LayerNorm(summed_BLD))
        return embedded_BLD

    @staticmethod
    def _positions(table: nn.Embedding, length: int, position_ids: Tensor | None) -> Tensor:
        if length > table.num_embeddings:
            raise ShapeError(
                f"A batch of length {length} does not fit an encoder of {table.num_embeddings} "
                "positions. Shorten the sequences, or build the encoder with a larger max_length."
            )
        positions: Tensor = table.weight[:length] if position_ids is None else table(position_ids)
        return positions
