"""Heap: what large tensors took is free again, whatever small ones came after them."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path

import torch

from cotdistill.learning.heap import LARGE, give_back

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

if sys.argv[1] == "give back":
    give_back()
torch.ones(16 * LARGE, dtype=torch.uint8)  # freed: from here on glibc keeps blocks of this size
large = [(torch.ones(2 * LARGE, dtype=torch.uint8), bytearray(100_000)) for _ in range(20)]
small, full = [pair[1] for pair in large], held()
del large
print((full - held()) / LARGE)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_freed_tensor_leaves_no_hole():
    assert freed("give back") > 35
    assert freed("keep") < 5  # what it is for


def freed(how: str) -> float:
    """MiB of 40 that went back to the system, in a process with a heap of its own."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    words = [sys.executable, "-c", PROGRAM, how]
    return float(subprocess.run(words, check=True, capture_output=True, text=True, env=plain).stdout)
