"""Forward passes without gradients, as fast as the processor allows: linear layers through oneDNN.

torch multiplies float32 matrices on a CPU by MKL, which on some of AMD's uses half the width of
their registers. oneDNN, which torch brings along too, uses all of it, and wants the weights laid
out once in its own order. The same operation exists for bfloat16.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.modes import evaluation_mode

InferencePrecision: TypeAlias = Literal["float32", "bfloat16"]

_ROWS_EXPECTED = 512
"""Of a product; oneDNN chooses the weights' order for about so many."""


class PackedProduct(nn.Module):
    """x W^T + b on a CPU, by a matrix that is laid out for oneDNN.

    Inputs and outputs keep their type; only the product is computed in that of the packed matrix.

    Args:
        weight_ND: W, one row an output.
        bias_N: b; None: no bias.
        dtype: float32 or bfloat16: in which numbers is multiplied.

    Shapes:
        x [..., D] -> [..., N].
    """

    def __init__(
        self,
        weight_ND: Float[Tensor, "N D"],
        bias_N: Float[Tensor, "N"] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        # Whoever looks at a linear layer's weights, as some attentions do, still finds them.
        self.weight, self.bias = weight_ND, bias_N
        weight_ND = weight_ND.detach().to(dtype).contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_ND, _ROWS_EXPECTED)
        self._bias = None if bias_N is None else bias_N.detach().to(dtype)
        self._dtype = dtype

    @staticmethod
    def is_available(dtype: torch.dtype = torch.float32) -> bool:
        """Say whether this torch has the operation, and this processor computes in `dtype`."""
        operations = torch.ops.mkldnn
        names = ("_reorder_linear_weight", "_linear_pointwise")
        has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if not has_onednn or not all(hasattr(operations, name) for name in names):
            return False
        if dtype == torch.bfloat16:
            supports = getattr(operations, "_is_mkldnn_bf16_supported", lambda: False)
            return bool(supports())
        return dtype == torch.float32

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... N"]:
        """Return the products."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self._dtype).contiguous(), self._packed, self._bias, "none", [], "none"
        )
        return product.to(x.dtype)


@contextmanager
def fast_inference(model: nn.Module, precision: InferencePrecision = "float32") -> Iterator[None]:
    """Let a model compute without gradients and dropout inside the block, and as fast as it can.

    On a CPU its linear layers are computed by `PackedProduct`; what is between them stays float32.
    Elsewhere, and where this torch cannot do so, bfloat16 is torch's autocast. Behind the block the
    model is as it was. Packing takes about as long as one batch of 500 tokens.

    Args:
        model: With weights in float32; layers of other types are left alone.
        precision: In which numbers matrices are multiplied. float32 gives the model's own results
            but for the order of sums.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    with ExitStack() as block, torch.inference_mode():
        block.enter_context(evaluation_mode(model))
        if device == "cpu" and PackedProduct.is_available(dtype):
            block.enter_context(_packed_linears(model, dtype))
        elif dtype == torch.bfloat16:
            block.enter_context(torch.autocast(device, dtype))
        yield


@contextmanager
def _packed_linears(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Put packed products in place of linear layers, and the layers back behind the block."""
    packed: dict[nn.Linear, PackedProduct] = {}
    places: list[tuple[nn.Module, str, nn.Linear]] = []
    for parent in model.modules():
        for name, child in parent._modules.items():
            if isinstance(child, nn.Linear) and _is_plain(child):
                places.append((parent, name, child))
                if child not in packed:
                    packed[child] = PackedProduct(child.weight, child.bias, dtype)
    try:
        for parent, name, child in places:
            parent._modules[name] = packed[child]
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child


def _is_plain(layer: nn.Linear) -> bool:
    """Say whether a layer only multiplies: subclasses may do more, and hooks want to be called."""
    has_hooks = bool(layer._forward_hooks or layer._forward_pre_hooks)
    return type(layer) is nn.Linear and layer.weight.dtype == torch.float32 and not has_hooks
