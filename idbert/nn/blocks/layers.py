"""What the blocks with attention are made of: sublayers, attention, feed-forward."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from idbert.nn.blocks.checks import check_counts, check_divisible, check_dropout
from idbert.nn.parts import NoOptions


@dataclass(frozen=True)
class LayerOptions(NoOptions):
    """Options that all blocks with attention have."""

    num_layers: int = 1
    """Layers, one upon the other."""

    num_heads: int = 4
    """Attention heads of a layer; the width is divided among them."""

    inner_factor: int = 4
    """Inner width of the feed-forward part, in widths of the block."""

    dropout: float | int = 0.1
    """Share of values dropped behind every sublayer, and of attention's shares."""

    norm: Literal["post", "pre"] = "post"
    """post: norm(x + f(x)), as in BERT; pre: x + f(norm(x)), with one more norm at the end."""

    def __post_init__(self) -> None:
        check_counts(
            "block with attention",
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            inner_factor=self.inner_factor,
        )
        check_dropout("block with attention", dropout=self.dropout)


class Sublayer(nn.Module):
    """A module with a skip connection and a LayerNorm round it, before or after.

    post: norm(x + dropout(f(x))); pre: x + dropout(f(norm(x))).

    Args:
        module: f; keeps the width.
        width: D.
        options: Where the norm stands, and the dropout.

    Shapes:
        hidden_BLD -> [B, L, D].
    """

    def __init__(self, module: nn.Module, width: int, options: LayerOptions) -> None:
        super().__init__()
        self.module = module
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(options.dropout)
        self.norm_first = options.norm == "pre"

    def forward(self, hidden_BLD: Float[Tensor, "B L D"], *context: Any) -> Float[Tensor, "B L D"]:
        """Return the states behind the sublayer; `context` goes to the module."""
        read_BLD = self.norm(hidden_BLD) if self.norm_first else hidden_BLD
        output_BLD: Tensor = hidden_BLD + self.dropout(self.module(read_BLD, *context))
        return output_BLD if self.norm_first else self.norm(output_BLD)


class FeedForward(nn.Sequential):
    """Two linear maps with GELU between them, position by position.

    Args:
        width: D.
        inner_factor: Inner width, in D.

    Shapes:
        hidden_BLD -> [B, L, D].
    """

    def __init__(self, width: int, inner_factor: int) -> None:
        inner_width = inner_factor * width
        super().__init__(nn.Linear(width, inner_width), nn.GELU(), nn.Linear(inner_width, width))


class SelfAttention(nn.Module):
    """Scaled dot-product attention of several heads.

    softmax(Q K^T / sqrt(W)) V for each head, then a linear map. Source: Vaswani et al. 2017.

    Args:
        width: D; a multiple of num_heads.
        num_heads: H.
        dropout: Share of the attention's shares that are dropped.

    Shapes:
        hidden_BLD -> [B, L, D].

    Raises:
        ConfigError: the width cannot be divided among the heads.
    """

    def __init__(self, width: int, num_heads: int, dropout: float | int) -> None:
        super().__init__()
        check_divisible("block with attention", width, num_heads, "heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], visible_BLL: Bool[Tensor, "B L L"] | None
    ) -> Float[Tensor, "B L D"]:
        """Return what each position (first L) reads where it may look (second L)."""
        query_BHLW, key_BHLW, value_BHLW = (
            split_heads(part, self.num_heads)
            for part in self.query_key_value(hidden_BLD).chunk(3, dim=-1)
        )
        read_BHLW = functional.scaled_dot_product_attention(
            query_BHLW,
            key_BHLW,
            value_BHLW,
            attn_mask=None if visible_BLL is None else visible_BLL[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        output_BLD: Tensor = self.output(join_heads(read_BHLW))
        return output_BLD


def split_heads(hidden_BLD: Float[Tensor, "B L D"], num_heads: int) -> Float[Tensor, "B H L W"]:
    """Divide the width among the heads."""
    return hidden_BLD.reshape(*hidden_BLD.shape[:2], num_heads, -1).transpose(1, 2)


def join_heads(hidden_BHLW: Float[Tensor, "B H L W"]) -> Float[Tensor, "B L D"]:
    """Put the heads side by side again."""
    return hidden_BHLW.transpose(1, 2).flatten(2)


def visible_positions(
    hidden_BLD: Float[Tensor, "B L D"],
    attention_mask_BL: Shaped[Tensor, "B L"] | None,
    *,
    is_causal: bool,
) -> Bool[Tensor, "B L L"] | None:
    """Return where a position (row) may look (column): not at padding, causally not ahead.

    Every position may look at itself, so that a position that sees nothing else (padding before a
    row, a row of padding alone) has a defined, unused result.

    Args:
        hidden_BLD: The states, for their size and device.
        attention_mask_BL: Not zero at real positions; None where all are real.
        is_causal: Whether later positions are hidden.

    Returns:
        None where nothing is hidden.
    """
    if attention_mask_BL is None and not is_causal:
        return None
    batch_size, length, _ = hidden_BLD.shape
    visible_BLL = torch.ones(1, length, length, dtype=torch.bool, device=hidden_BLD.device)
    if is_causal:
        visible_BLL = visible_BLL.tril()
    if attention_mask_BL is not None:
        itself_LL = torch.eye(length, dtype=torch.bool, device=hidden_BLD.device)
        visible_BLL = visible_BLL & attention_mask_BL.bool()[:, None, :] | itself_LL
    return visible_BLL.expand(batch_size, -1, -1)
