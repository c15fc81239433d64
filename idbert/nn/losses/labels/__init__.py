"""Losses over labels: from logits [B, C], one loss a row.

Losses are found by name; one more is a class and a registration:

    @LABEL_LOSSES.register("hinge")
    class Hinge(SingleLabelLoss):
        def row_losses(self, logits_BC, targets): ...
"""

from idbert.nn.losses.labels import (  # noqa: F401  (each file registers its loss)
    bce,
    concurrent_softmax,
    cross_entropy,
    focal,
    focal_bce,
    huber,
    mse,
    sampled_softmax,
    zlpr,
)
from idbert.nn.losses.labels.label_loss import (
    DEFAULT_LOSSES,
    IGNORED,
    LABEL_LOSSES,
    LabelKind,
    LabelLoss,
    LabelLossSettings,
    MultiLabelLoss,
    NumberLoss,
    SingleLabelLoss,
    build_label_loss,
    read_loss_options,
)

__all__ = [
    "DEFAULT_LOSSES",
    "IGNORED",
    "LABEL_LOSSES",
    "LabelKind",
    "LabelLoss",
    "LabelLossSettings",
    "MultiLabelLoss",
    "NumberLoss",
    "SingleLabelLoss",
    "build_label_loss",
    "read_loss_options",
]
