"""Whole: whether the files of a model directory are all there and complete, as far as can be told without loading them.

    b"version https://git-lfs.github.com/spec/v1\\noid sha256:4d7a..."    what a clone without Git LFS has for a file
"""

import json
import re
from pathlib import Path

from cotdistill.errors import SetupError

POINTER = b"version https://git-lfs"
LARGEST_POINTER = 1024
LARGEST_HEADER = 100_000_000
"""Bytes: a length above it is no safetensors file (the format's own limit)."""

TOKENIZER = re.compile(r"tokenizer(?!_config\.json)|tokenization|vocab|merges|spiece|tekken|.*\.(model|tiktoken)$")
"""Names of files that hold a vocabulary, or their beginning."""


def check_files(directory: Path, *, own_code: bool) -> None:
    """Raise ``SetupError`` for a Git LFS pointer instead of a file, weights that are cut off, and a model without a
    tokenizer, which one with ``own_code`` may make otherwise."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    for file in files:
        if _is_pointer(file):
            raise SetupError(f"{file} is a Git LFS pointer and not the file: run `git lfs pull` in {directory}")
    for file in files:
        if file.suffix == ".safetensors" and _is_cut_off(file):
            raise SetupError(f"{file} is cut off; get the model again")
    if not own_code and not any(TOKENIZER.match(file.name) for file in files):
        raise SetupError(f"{directory} has no tokenizer (tokenizer.json or the like); get the model again, all of it")


def _is_pointer(file: Path) -> bool:
    if file.stat().st_size > LARGEST_POINTER:
        return False
    with file.open("rb") as opened:
        return opened.read(len(POINTER)) == POINTER


def _is_cut_off(file: Path) -> bool:
    """Whether a safetensors file ends before its last tensor: a length in 8 bytes, a JSON header, the tensors."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > LARGEST_HEADER:
            return size < 8
        header = opened.read(length)
    try:
        ends = [one["data_offsets"][1] for name, one in json.loads(header).items() if name != "__metadata__"]
        return size < 8 + length + max(ends, default=0)
    except (ValueError, AttributeError, LookupError, TypeError):  # what is wrong with it says whoever loads it
        return size < 8 + length
