"""The head of the item models: vectors at positions become scores of all items."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from idbert.nn.encoder_config import EncoderConfig


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

    score = transform(hidden) . embedding + bias

    Without head_transform the transform is the identity; or a dense layer without a bias, where
    the backbone's vectors are not as wide as the embeddings that they are compared with.

    Args:
        config: vocab_size, hidden_size, head_transform, hidden_act, layer_norm_eps are read.
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
