"""Heads: a pooled vector becomes one logit a label, [B, D] -> [B, C].

Heads are found by name; one more is a class and a registration:

    @HEADS.register("cosine")
    class CosineHead(Head):
        def forward(self, pooled_BD): ...
"""

from idbert.nn.heads import (  # noqa: F401  (each file registers its head)
    dense_mlp,
    label_graph,
    label_rnn,
    linear,
    mlp,
    residual_mlp,
)
from idbert.nn.heads.head import (
    HEADS,
    DropoutHead,
    Head,
    HeadSettings,
    build_head,
    read_head_options,
)

__all__ = ["HEADS", "DropoutHead", "Head", "HeadSettings", "build_head", "read_head_options"]
