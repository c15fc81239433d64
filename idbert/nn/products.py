"""Products of float32 matrices at the processor's full width.

torch multiplies float32 on a CPU by MKL, which on some of AMD's processors uses half the width of
their AVX-512 registers (on one of two that were measured; on the other both are alike). oneDNN,
which torch brings along too, uses all of it. torch takes oneDNN for
float32 only where it may round to bfloat16 on the way, which oneDNN does on processors with matrix
tiles (AMX) alone; whether it does so here is tried out, and then it is not used.
"""

import functools
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_AMD = "AuthenticAMD"
_CACHE, _CACHE_SIZE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192"
"""Sizes of products that oneDNN remembers; its own 1,024 are about those of one training."""
_NAME = "fp32_precision"
_MULTIPLE, _LARGEST_SHARE = 16, 1 / 16
_EXACT = 1e-5
"""Largest error of a product of 256 random terms, beside the largest product; bfloat16's is
0.004."""


@contextmanager
def fast_products() -> Iterator[None]:
    """Let products of float32 matrices on the CPU run by oneDNN, where that is faster.

    Only the order of sums changes. torch's fused attention is slower meanwhile, since it is made of
    many small products: use `idbert.nn.cpu_attention` inside. A product of a size that has not been
    met before costs some tenths of a millisecond more, once.
    """
    if not onednn_is_faster():
        yield
        return
    _blocks.enter()
    try:
        yield
    finally:
        _blocks.leave()


class _Blocks:
    """How many blocks are open, of all threads: torch's setting is one for the process."""

    def __init__(self) -> None:
        self._lock, self._open, self._before = threading.Lock(), 0, ""

    def enter(self) -> None:
        """Switch the products where this block is the first."""
        with self._lock:
            if self._open == 0:
                self._before = _precision()
                _set_precision("bf16")
            self._open += 1

    def leave(self) -> None:
        """Switch back where no other block is open."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                _set_precision(self._before)


_blocks = _Blocks()


def padded_rows(rows_MD: Float[Tensor, "M D"], num_rows: int | None = None) -> Float[Tensor, "_ D"]:
    """Inside `fast_products`, add rows of zeros, up to `rounded_rows` or another number."""
    if num_rows is None or not products_are_fast():
        num_rows = rounded_rows(len(rows_MD))
    missing = num_rows - len(rows_MD)
    return F.pad(rows_MD, (0, 0, 0, missing)) if missing else rows_MD


def rounded_rows(count: int) -> int:
    """Inside `fast_products`, round up by at most a sixteenth, or to a multiple of 16.

    For a number of rows that is another in every batch: each new one would cost more time than the
    rows that are added, and for the rest of the training half a megabyte.
    """
    return round_up(count, _MULTIPLE, _LARGEST_SHARE) if products_are_fast() else count


def round_up(count: int, multiple: int, largest_share: float) -> int:
    """Round a number of rows up to one of few: a multiple of 16, say, or of 32, 64, ...

    Args:
        count: The number.
        multiple: What is always rounded to.
        largest_share: The multiple doubles as long as it is at most this share of the number.
    """
    doublings = math.floor(math.log2(max(1, count * largest_share / multiple)))
    step = multiple << doublings
    return -(-count // step) * step


def products_are_fast() -> bool:
    """Say whether the caller is inside `fast_products`, and it acts on this machine."""
    return onednn_is_faster() and _precision() == "bf16"


@functools.cache
def onednn_is_faster() -> bool:
    """Say whether oneDNN multiplies float32 faster than MKL here, and as exactly.

    It is decided by the kind of processor, not by the clock: a run that is resumed must compute as
    it did.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if _AMD not in _processor() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    os.environ.setdefault(_CACHE, _CACHE_SIZE)  # read when oneDNN is first used
    return _is_exact()


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _is_exact() -> bool:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    truth = left.double() @ right.double()
    previous = _precision()
    try:
        _set_precision("bf16")
        error = (left @ right - truth).abs().max() / truth.abs().max()
    except (AttributeError, RuntimeError, ValueError):  # a torch that has no such setting
        return False
    finally:
        _set_precision(previous)
    return bool(error < _EXACT)


def _precision() -> str:
    return str(getattr(_setting(), _NAME, "none"))


def _set_precision(precision: str) -> None:
    if precision != _precision():
        setattr(_setting(), _NAME, precision)


def _setting() -> Any:
    return getattr(torch.backends.mkldnn, "matmul", None)
