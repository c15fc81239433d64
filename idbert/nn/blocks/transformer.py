"""Transformer layers as a block."""

from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from idbert.nn.blocks.block import BLOCKS, Block, zero_padding
from idbert.nn.blocks.layers import (
    FeedForward,
    LayerOptions,
    SelfAttention,
    Sublayer,
    visible_positions,
)


class AttentionBlock(Block):
    """Base of the blocks with attention: project to the width, then layers of sublayers.

    Where the widths differ, the states are first projected: h = W x + b.

    Raises:
        ConfigError: the width cannot be divided among the heads.
    """

    Options = LayerOptions
    supports_causal = True

    def __init__(
        self, input_width: int, width: int | None, options: LayerOptions, *, is_causal: bool
    ) -> None:
        super().__init__(input_width, width, options, is_causal=is_causal)
        self.projection = (
            nn.Identity() if self.width == input_width else nn.Linear(input_width, self.width)
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Sublayer(module, self.width, options)
                    for name, module in self.layer_modules(options).items()
                }
            )
            for _ in range(options.num_layers)
        )
        self.final_norm = nn.LayerNorm(self.width) if options.norm == "pre" else nn.Identity()

    def layer_modules(self, options: LayerOptions) -> dict[str, nn.Module]:
        """Return the modules of one layer by name."""
        return {
            "attention": self.attention(options),
            "feed_forward": FeedForward(self.width, options.inner_factor),
        }

    def attention(self, options: LayerOptions) -> nn.Module:
        """Return the attention of one layer: scaled dot-product unless a subclass has its own."""
        return SelfAttention(self.width, options.num_heads, options.dropout)

    def run_layer(
        self,
        layer: nn.ModuleDict,
        hidden_BLD: Float[Tensor, "B L D"],
        attention_mask_BL: Shaped[Tensor, "B L"] | None,
        visible_BLL: Bool[Tensor, "B L L"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Return the states behind one layer."""
        output_BLD: Tensor = layer["feed_forward"](layer["attention"](hidden_BLD, visible_BLL))
        return output_BLD

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return the states behind the last layer."""
        visible_BLL = visible_positions(hidden_BLD, attention_mask_BL, is_causal=self.is_causal)
        output_BLD = self.projection(zero_padding(hidden_BLD, attention_mask_BL))
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            output_BLD = self.run_layer(layer, output_BLD, attention_mask_BL, visible_BLL)
        return zero_padding(self.final_norm(output_BLD), attention_mask_BL)


@BLOCKS.register("transformer")
class TransformerBlock(AttentionBlock):
    """Transformer encoder layers: attention, then a feed-forward part.

    h <- norm(h + attention(h)); h <- norm(h + W2 gelu(W1 h)); or with the norms before. It adds no
    positions: the encoder's states hold them. Source: Vaswani et al. 2017 (arXiv:1706.03762).

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the width cannot be divided among the heads.
    """
