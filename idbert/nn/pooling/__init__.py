"""Pooling: the vectors of a sequence become one, [B, L, D] -> [B, width], blind to padding.

Poolings are found by name; one more is a class and a registration:

    @POOLINGS.register("power_mean")
    class PowerMean(Pooling):
        def pool(self, hidden_BLD, real_BL): ...
"""

from idbert.nn.pooling import (  # noqa: F401  (each file registers its pooling)
    attention,
    cls,
    max,
    mean,
    mean_max,
    min,
    mix,
    pooler,
    textcnn,
)
from idbert.nn.pooling.pooling import (
    POOLINGS,
    Pooling,
    PoolingSettings,
    build_pooling,
    read_pooling_options,
)

__all__ = ["POOLINGS", "Pooling", "PoolingSettings", "build_pooling", "read_pooling_options"]
