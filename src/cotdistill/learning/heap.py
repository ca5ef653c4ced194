"""Heap: the memory of a large tensor goes back to the system when the tensor is freed.

glibc learns from what a program frees, and keeps blocks of up to 32 MB in a heap that shrinks only at its end. The
tensors of lines of different lengths leave holes there that the next line does not fit into.
"""

import ctypes

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
LARGE = 1 << 20
"""Bytes from which a block is mapped by itself. Smaller ones would take more time: each is zeroed page by page."""


def give_back() -> None:
    """From now on, in this process; nothing happens where the C library has no such setting."""
    try:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)
    except (AttributeError, OSError, TypeError):  # macOS and musl have no mallopt, Windows no such library
        return
