"""Memory that a step of training frees, and the next one needs again."""

import ctypes
import functools
import sys

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
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
    mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)
