"""RTransformer: a recurrent network over a small window, then attention."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from idbert.nn.blocks.block import BLOCKS
from idbert.nn.blocks.checks import check_counts
from idbert.nn.blocks.layers import LayerOptions
from idbert.nn.blocks.local_rnn import LocalRNN
from idbert.nn.blocks.transformer import AttentionBlock


@BLOCKS.register("rtransformer")
class RTransformer(AttentionBlock):
    """R-Transformer layers: a recurrent network over a window, attention, feed-forward.

    u_t = the last state of a recurrent network that reads x_(t-M+1), ..., x_t, what lies outside
    the row being zero; h <- norm(x + u); h <- norm(h + attention(h)); h <- norm(h + ffn(h)).
    Unless causal, half of u's width comes from a second network, which reads x_(t+M-1), ..., x_t,
    and attention sees the whole row. Source: Wang et al. 2019 (arXiv:1907.05572), whose model is
    causal.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the width cannot be divided among the heads, or the two directions.
    """

    @dataclass(frozen=True)
    class Options(LayerOptions):
        """Options of the block."""

        window: int = 7
        """M, positions that the recurrent network reads, the present one included."""

        cell: Literal["rnn", "gru", "lstm"] = "gru"
        """Kind of the recurrent network."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_counts("block 'rtransformer'", window=self.window)

    def layer_modules(self, options: LayerOptions) -> dict[str, nn.Module]:
        """Return the modules of one layer by name."""
        assert isinstance(options, self.Options)
        local = LocalRNN(self.width, options.window, options.cell, is_causal=self.is_causal)
        return {"local": local, **super().layer_modules(options)}

    def run_layer(
        self,
        layer: nn.ModuleDict,
        hidden_BLD: Float[Tensor, "B L D"],
        attention_mask_BL: Shaped[Tensor, "B L"] | None,
        visible_BLL: Bool[Tensor, "B L L"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Return the states behind one layer."""
        local_BLD = layer["local"](hidden_BLD, attention_mask_BL)
        return super().run_layer(layer, local_BLD, attention_mask_BL, visible_BLL)
