"""Streams: what a command is told by and tells, also where somebody closed them or stopped reading.

Without this a closed stream's number would go to the next file that is opened, a journal perhaps, and whatever a
library prints would end up in it; and ``cotdistill report runs/a | head -3`` would be a failure.
"""

import io
import os
import sys
from typing import Any, TextIO


def open_streams() -> None:
    """Open the standard streams that are closed, on nothing, and let nobody's leaving end the work."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest free number is the stream's own
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    sys.stdout = _lenient(sys.stdout, BrokenPipeError)
    sys.stderr = _lenient(sys.stderr, OSError)  # there is nobody left to be told


class _Lenient(io.FileIO):
    """A file that drops what it cannot write for one of the reasons ``forgiven``."""

    forgiven: type[OSError] = BrokenPipeError

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except self.forgiven:
            return memoryview(data).nbytes


def _lenient(stream: TextIO, forgiven: type[OSError]) -> TextIO:
    stream.flush()
    raw = _Lenient(stream.fileno(), "w", closefd=False)
    raw.forgiven = forgiven
    lines = bool(stream.line_buffering)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=lines
    )
