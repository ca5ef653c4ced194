"""Heap: what large tensors took is free again, whatever small ones came after them."""

import platform
from pathlib import Path

import pytest
import torch

from cotdistill.learning.heap import LARGE, give_back


def held() -> int:
    """Bytes of memory that no file lies behind."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_freed_tensor_leaves_no_hole():
    give_back()
    torch.ones(16 * LARGE, dtype=torch.uint8)  # freed: from here on glibc would keep blocks of this size
    large = [(torch.ones(2 * LARGE, dtype=torch.uint8), bytearray(1000)) for _ in range(20)]
    small, full = [pair[1] for pair in large], held()
    del large
    assert full - held() > 35 * LARGE
    assert len(small) == 20
