"""Streams: the standard streams, also when they are closed or their reader has left.

Without this a closed stream's number would go to the next file that is opened, a journal perhaps, and whatever a
library prints would end up in it; and ``cotdistill report runs/a | head -3`` would be a failure.
"""

import io
import os
import sys
from typing import TextIO


def open_streams() -> None:
    """Open the standard streams that are closed, on nothing, and let nobody's leaving end the work."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest free number is the stream's own
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    sys.stdout = _lenient(sys.stdout, BrokenPipeError)
    sys.stderr = _lenient(sys.stderr, OSError)  # there is nobody left to be told


class _Lenient(io.TextIOWrapper):
    """A stream that goes on with nothing where it can write no more for one of the reasons ``forgiven``. It is the
    text that is caught here, not its bytes: an interrupt between those would have them written twice."""

    forgiven: type[OSError] = BrokenPipeError

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except self.forgiven:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except self.forgiven:
            self._leave()

    def _leave(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)


def _lenient(stream: TextIO, forgiven: type[OSError]) -> TextIO:
    stream.flush()
    raw = io.BufferedWriter(io.FileIO(stream.fileno(), "w", closefd=False))
    lenient = _Lenient(raw, stream.encoding, stream.errors, line_buffering=bool(stream.line_buffering))
    lenient.forgiven = forgiven
    return lenient
