"""The head of the item models: vectors at positions become scores of all items."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from idbert.nn.encoder_config import LEAST_LEARNED_TEMPERATURE, EncoderConfig
from idbert.nn.losses.catalogue import unit_vectors


class HeadTransform(nn.Module):
    """Dense layer, activation and LayerNorm below the scores.

    Its state-dict names are those of `cls.predictions.transform` in BERT.

    Args:
        hidden_size: D, the width of the item embeddings.
        activation: Name of the activation in transformers.
        layer_norm_eps: Added to the variance in LayerNorm.
        input_width: Width of what comes in; None for D.

    Shapes:
        [..., input_width] -> ... D
    """

    def __init__(
        self,
        hidden_size: int,
        activation: str,
        layer_norm_eps: float,
        input_width: int | None = None,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(input_width or hidden_size, hidden_size)
        self.activation = ACT2FN[activation]
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, hidden: Float[Tensor, "... _"]) -> Float[Tensor, "... D"]:
        """Return the vectors that are compared with the items' vectors."""
        transformed: Tensor = self.LayerNorm(self.activation(self.dense(hidden)))
        return transformed


class ItemHead(nn.Module):
    """What the scores have beside the item embeddings, which are the encoder's own (tied).

    score = similarity(transform(hidden), embedding) / temperature + bias + shift

    The similarity is the inner product, or the cosine: that of vectors at norm 1.

    Without head_transform the transform is the identity; or a dense layer without a bias, where
    the backbone's vectors are not as wide as the embeddings that they are compared with. The shift
    is no parameter, and not in the loss: what has been popular lately, in place of what was popular
    in training (see `inputs.popularity`).

    Args:
        config: vocab_size, hidden_size, head_transform, hidden_act, layer_norm_eps, similarity,
            temperature, learned_temperature and shifts_popularity are read.
        input_width: Width of the backbone's vectors; None for hidden_size.
    """

    def __init__(self, config: EncoderConfig, input_width: int | None = None) -> None:
        super().__init__()
        width = config.hidden_size
        input_width = input_width or width
        self.transform: nn.Module = nn.Identity()
        if config.head_transform:
            self.transform = HeadTransform(
                width, config.hidden_act, config.layer_norm_eps, input_width
            )
        elif input_width != width:
            self.transform = nn.Linear(input_width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        shift_V = torch.zeros(config.vocab_size) if config.shifts_popularity else None
        self.register_buffer("shift_V", shift_V)
        self.shift_V: Tensor | None
        self.is_cosine = config.similarity == "cosine"
        self.first_temperature = float(config.temperature)
        self.log_temperature: nn.Parameter | None = None
        if config.learned_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(self.first_log_temperature))

    @property
    def temperature(self) -> Float[Tensor, ""] | float:
        """What similarities are divided by: 0.01 + exp(log_temperature) where it is learned."""
        if self.log_temperature is None:
            return self.first_temperature
        return LEAST_LEARNED_TEMPERATURE + self.log_temperature.exp()

    @property
    def biases(self) -> Float[Tensor, "V"]:
        """What a score has beside the similarity: the learned bias, and the shift if there is one.

        The loss knows the learned bias alone.
        """
        return self.bias if self.shift_V is None else self.bias + self.shift_V

    @property
    def first_log_temperature(self) -> float:
        """The parameter of a learned temperature before it has learned."""
        return math.log(self.first_temperature - LEAST_LEARNED_TEMPERATURE)

    def queries(self, hidden: Float[Tensor, "... _"]) -> Float[Tensor, "... D"]:
        """Return the vectors whose inner products with `keys` are the scores without the bias.

        They are the backbone's, transformed, at norm 1 for a cosine, over the temperature.
        """
        transformed: Tensor = self.transform(hidden)
        if self.is_cosine:
            transformed = unit_vectors(transformed)
        temperature = self.temperature
        # A learned one is float32, and would widen what autocast has narrowed.
        if isinstance(temperature, Tensor):
            return transformed / temperature.to(transformed.dtype)
        return transformed if temperature == 1 else transformed / temperature

    def keys(self, embedding_VD: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        """Return the rows' vectors as they are scored: at norm 1 for a cosine."""
        return unit_vectors(embedding_VD) if self.is_cosine else embedding_VD
