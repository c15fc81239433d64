"""Products of float32 matrices at the processor's full width.

torch multiplies float32 on a CPU by MKL, which on some of AMD's processors uses half the width of
their AVX-512 registers (on one of two that were measured; on the other both are alike). oneDNN,
which torch brings along too, uses all of it. torch takes oneDNN for
float32 only where it may round to bfloat16 on the way, which oneDNN does on processors with matrix
tiles (AMX) alone; whether it does so here is tried out, and then it is used only by those who
want their products rounded.
"""

import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
def fast_products(*, rounded_on: str | None = None) -> Iterator[None]:
    """Let products of float32 matrices on the CPU run by oneDNN, where that is faster.

    Only the order of sums changes. torch's fused attention is slower meanwhile, since it is made of
    many small products: use `idbert.nn.cpu_attention` inside. A product of a size that has not been
    met before costs some tenths of a millisecond more, once.

    Args:
        rounded_on: The kind of device on which factors may be rounded on the way, torch's "medium"
            precision of float32 products; None: nowhere. On "cpu" to bfloat16, where a processor
            has tiles (see `has_tiles`), on "cuda" to TF32: there torch refuses to tell its older
            `allow_tf32` meanwhile. Sums and results stay float32.
    """
    with ExitStack() as blocks:
        if onednn_is_faster() or (rounded_on == "cpu" and has_tiles()):
            blocks.enter_context(_blocks)
        if rounded_on == "cuda":
            blocks.enter_context(_gpu_blocks)
        yield


class _Blocks:
    """How many blocks are open, of all threads: torch's setting is one for the process.

    Args:
        setting: Returns where torch keeps the precision of float32 products.
        inside: What it is inside a block.
    """

    def __init__(self, setting: Callable[[], Any], inside: str) -> None:
        self._setting, self._inside = setting, inside
        self._lock, self._before = threading.Lock(), ""
        self._open = self._left = 0

    @property
    def precision(self) -> str:
        """What torch says now."""
        return str(getattr(self._setting(), _NAME, "none"))

    @precision.setter
    def precision(self, precision: str) -> None:
        if precision != self.precision:
            setattr(self._setting(), _NAME, precision)

    def __enter__(self) -> None:
        """Switch the products where this block is the first."""
        with self._lock:
            if self._open == 0:
                self._before = self.precision
                self.precision = self._inside
            self._open += 1

    def __exit__(self, *_: object) -> None:
        """Switch back where no other block is open."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self.precision = self._before

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Leave all open blocks for a while."""
        with self._lock:
            if self._open and self._left == 0:
                self.precision = self._before
            self._left += 1
        try:
            yield
        finally:
            with self._lock:
                self._left -= 1
                if self._open and self._left == 0:
                    self.precision = self._inside


_blocks = _Blocks(lambda: getattr(torch.backends.mkldnn, "matmul", None), "bf16")
_gpu_blocks = _Blocks(lambda: torch.backends.cuda.matmul, "tf32")


def plain_products() -> AbstractContextManager[None]:
    """Let products run as outside `fast_products`, inside it: of small blocks, which it slows."""
    return _blocks.as_before()


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
    return _blocks.precision == "bf16" and (onednn_is_faster() or has_tiles())


def products_are_rounded() -> bool:
    """Say whether factors of products are rounded to bfloat16 where the caller is."""
    return products_are_fast() and not onednn_is_faster()


def has_tiles() -> bool:
    """Say whether the processor multiplies tiles of bfloat16 matrices (AMX)."""
    # torch has no public function for it; one that is gone means: unknown, so no.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


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
    previous = _blocks.precision
    try:
        _blocks.precision = "bf16"
        error = (left @ right - truth).abs().max() / truth.abs().max()
    except (AttributeError, RuntimeError, ValueError):  # a torch that has no such setting
        return False
    finally:
        _blocks.precision = previous
    return bool(error < _EXACT)
