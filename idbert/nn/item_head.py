"""The head of the item models: vectors at positions become scores of all items."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from idbert.nn.config import EncoderConfig


class HeadTransform(nn.Module):
    """Dense layer, activation and LayerNorm below the scores.

    Its state-dict names are those of `cls.predictions.transform` in BERT.

    Args:
        hidden_size: D.
        activation: Name of the activation in transformers.
        layer_norm_eps: Added to the variance in LayerNorm.

    Shapes:
        ... D -> ... D
    """

    def __init__(self, hidden_size: int, activation: str, layer_norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.activation = ACT2FN[activation]
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return the vectors that are compared with the items' vectors."""
        transformed: Tensor = self.LayerNorm(self.activation(self.dense(hidden)))
        return transformed


class ItemHead(nn.Module):
    """What the scores have beside the item embeddings, which are the encoder's own (tied).

    score = transform(hidden) . embedding + bias

    Args:
        config: vocab_size, hidden_size, head_transform, hidden_act, layer_norm_eps are read.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.transform: nn.Module = nn.Identity()
        if config.head_transform:
            self.transform = HeadTransform(
                config.hidden_size, config.hidden_act, config.layer_norm_eps
            )
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
