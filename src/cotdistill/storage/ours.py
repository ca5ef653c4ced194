"""Ours: what stands where a command is to write, and whether ``--overwrite`` may take it away.

A file of ours that has lost its record is known by its first row, an adapter by its files. Anything else is the
user's: notes under the name that a command was given, a directory of photos.
"""

from pathlib import Path
from typing import Literal

import msgspec

from cotdistill.card import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD
from cotdistill.errors import DataError, ResumeError
from cotdistill.journal import whole_rows

Holds = type[msgspec.Struct] | Literal["file", "directory"]
"""What is to be written: rows of a type, a file of another kind, a directory."""

WAY = "move it away, or choose another output"


def refuse_other_kind(path: Path, holds: Holds) -> None:
    """Raise ``ResumeError`` where ``path`` is a file and a directory is to be written, or the other way round."""
    if holds == "directory" and path.exists() and not path.is_dir():
        raise ResumeError(f"{path} is a file, and a directory is to be written there: {WAY}")
    if holds != "directory" and path.is_dir():
        raise ResumeError(f"{path} is a directory, and a file is to be written there: {WAY}")


def refuse_foreign(path: Path, holds: Holds) -> None:
    """Raise ``ResumeError`` where ``path``, of which nothing is on record, holds what nobody here writes."""
    refuse_other_kind(path, holds)
    if not holds_something(path):
        return
    if path.is_dir():
        known = any((path / name).exists() for name in (ADAPTER_CONFIG, CARD, "checkpoints"))
    else:
        known = isinstance(holds, str) or _begins_with(path, holds)
    if not known:
        raise ResumeError(f"{path} holds something else and is not ours to overwrite: {WAY}")


def gone(path: Path) -> Path | None:
    """What is missing of a finished output: the file itself, or an adapter's weights or configuration; None if nothing.
    """
    needed = (path / ADAPTER_WEIGHTS, path / ADAPTER_CONFIG) if path.is_dir() else (path,)
    return next((part for part in needed if not part.exists()), None)


def holds_something(path: Path) -> bool:
    """Whether there is a file with something in it, or a directory with files."""
    if path.is_dir():
        return any(inside.is_file() for inside in path.rglob("*"))
    return path.exists() and path.stat().st_size > 0


def _begins_with(path: Path, type_: type[msgspec.Struct]) -> bool:
    try:
        return next(whole_rows(path, type_), None) is not None
    except DataError:
        return False
