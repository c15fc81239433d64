"""A device that is not the CPU, on a machine that has none: its memory is the CPU's.

Inside `OtherDevice` tensors on torch's device "meta" hold numbers, and an operation that reads them
and the CPU's at once fails as it would on a GPU. What is brought back from there is counted, for
every such answer is awaited.
"""

import traceback
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
NAME = "meta"
"""Torch runs backward passes for it without a GPU's part of torch."""

NUMBERS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero}
"""They return a number to Python; `nonzero` a tensor whose size only the device knows."""

COPYING = {aten._to_copy, aten.copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Copies to and fro, and indices from the CPU, are brought over."""


class There(torch.Tensor):
    """A tensor on the device, and the CPU's tensor that stands for its memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        """Wrap a tensor."""
        assert type(held) in (Tensor, nn.Parameter), type(held)
        there = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        there.held = held.detach()
        return there

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise AssertionError(f"{func} outside of OtherDevice")


class OtherDevice(TorchDispatchMode):
    """While it is entered, the device is there.

    Attributes:
        answers: Where the CPU has waited for the device: operation, file and line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[str] = []
        self._patches = ExitStack()

    def __enter__(self) -> "OtherDevice":
        """Let autocast, which does not know the device, take it for the CPU."""
        for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype"):
            self._patches.enter_context(patch.object(torch, name, _of_the_cpu(name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs, operation = dict(kwargs or {}), func.overloadpacket
        read = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        wrapped = [x for x in read if isinstance(x, There)]
        target = kwargs.get("device")
        goes_there = target is not None and torch.device(target).type == NAME
        if not wrapped and not goes_there:
            return func(*args, **kwargs)
        if target is None and operation not in COPYING | INDEXING:
            mixed = [x for x in read if not isinstance(x, There) and x.ndim > 0]
            assert not mixed, f"{func} reads tensors of two devices"
        comes_back = operation in NUMBERS or (target is not None and not goes_there)
        if operation is aten.copy_:
            comes_back = not isinstance(args[0], There)
        if comes_back or operation is aten.nonzero:
            self.answers.append(_place(func))
        if goes_there:
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if comes_back:
            return out
        in_place = {id(x.held): x for x in wrapped}
        return tree_map(lambda x: _wrapped(x, in_place), out)


def move(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the device, inside of it; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    wrapped = There(parameter.data)
                    made[id(parameter)] = nn.Parameter(wrapped, parameter.requires_grad)
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = There(buffer)


def there(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a batch on the device."""
    return {name: There(tensor) for name, tensor in tensors.items()}


def _held(x: Any) -> Any:
    return x.held if isinstance(x, There) else x


def _wrapped(x: Any, in_place: dict[int, There]) -> Any:
    if not isinstance(x, Tensor) or isinstance(x, There):
        return x
    return in_place[id(x)] if id(x) in in_place else There(x)


def _place(func: Any) -> str:
    frames = traceback.extract_stack()
    ours = [frame for frame in frames if "/idbert/" in frame.filename] or [frames[0]]
    return f"{func} in {ours[-1].filename}, line {ours[-1].lineno}"


def _of_the_cpu(name: str) -> Any:
    known = getattr(torch, name)

    def call(device: str = "cpu", *args: Any, **options: Any) -> Any:
        return known("cpu" if device == NAME else device, *args, **options)

    return call
