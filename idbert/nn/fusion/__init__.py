"""Layer fusions, found by name; importing this package registers them all."""

from idbert.nn.fusion.fixed import (
    LastLayer,
    MaxFusion,
    MeanFusion,
    MeanMaxFusion,
    OneLayer,
    SumFusion,
)
from idbert.nn.fusion.layer_fusion import (
    FUSIONS,
    FusionSettings,
    LayerFusion,
    ProjectedFusion,
    build_fusion,
    resolve_layers,
)
from idbert.nn.fusion.learned import FreeWeightsFusion, GateFusion, SoftmaxFusion

__all__ = [
    "FUSIONS",
    "FreeWeightsFusion",
    "FusionSettings",
    "GateFusion",
    "LastLayer",
    "LayerFusion",
    "MaxFusion",
    "MeanFusion",
    "MeanMaxFusion",
    "OneLayer",
    "ProjectedFusion",
    "SoftmaxFusion",
    "SumFusion",
    "build_fusion",
    "resolve_layers",
]
