"""In which numbers the products of matrices are computed while training."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from idbert.nn.products import has_tiles

WORTHWHILE_WIDTH = 256
"""Below it the conversions cost as much as the faster products save."""


def resolve_precision(precision: str, hidden_size: int, device_type: str) -> str:
    """Say what "auto" means here: bfloat16 where it is computed by hardware and pays.

    Args:
        precision: auto, float32, medium or bfloat16.
        hidden_size: Of the model.
        device_type: cpu, cuda, ...
    """
    if precision != "auto":
        return precision
    pays = hidden_size >= WORTHWHILE_WIDTH and computes_bfloat16(device_type)
    return "bfloat16" if pays else "float32"


def computes_bfloat16(device_type: str) -> bool:
    """Say whether the hardware multiplies bfloat16: AVX-512 BF16 or AMX, or such a GPU."""
    if device_type == "cpu":
        # torch has no public function for it; one that is gone means: unknown, so no.
        return has_tiles() or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False


def autocast(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """Return the block in which a forward pass computes in `precision`; weights stay float32.

    For medium, whose products are rounded within, see `idbert.nn.products.fast_products`.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16)
