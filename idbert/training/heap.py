"""Memory that a step of training frees, and the next one needs again."""

import ctypes
import functools
import gc
import sys

import pyarrow as pa

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensor of its size.

    glibc gives large blocks back to the system, which has to find and clear their pages when the
    next step asks for as much: up to a sixth of a step's time. The peak is the same. Without glibc
    nothing happens.

    Source: mallopt(3).
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)


def release_freed_memory() -> None:
    """Give memory back that arrow and the C library hold, and nothing uses any more.

    For the moments before a training and behind it: what reading and splitting a log needed is not
    needed again, nor is what its steps did.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return glibc; None on a system with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
