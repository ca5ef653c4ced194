"""Progress: a live screen on a terminal, a plain line every half minute elsewhere. All of it goes to stderr."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from cotdistill.screen import Screen, Stage

EVERY_SECONDS = 30.0


class Bar:
    """``with Bar("traces", total=100, done=20) as bar: bar.step("18 right", tokens=31)``.

    ``done`` rows were there before; the rate and the time left count only what this process does. On a terminal the
    bar is a line of the screen of the whole run, or of one of its own where there is none.
    """

    def __init__(self, title: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._quiet = quiet
        self._note = ""
        self._tokens = 0
        self._start = self._said = time.monotonic()
        self._own: Screen | None = None
        self._line: Stage | None = None

    def __enter__(self) -> Self:
        if not self._quiet and (screen := self._screen()):
            self._line = screen.begin(self._title, self._total, self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line is not None:
            self._line.end(finished=kind is None)
        elif not self._quiet and self._done > self._first:
            self._say()
        if self._own is not None:
            self._own.__exit__(kind, error, trace)

    def total(self, total: int, done: int) -> None:
        """Say how many there are, once that is known; ``done`` counts the step that is about to be reported."""
        if total != self._total:
            self._total, self._done, self._first = total, done - 1, done - 1
            if self._line is not None:
                self._line.total, self._line.done, self._line.first = total, done - 1, done - 1

    def step(self, note: str = "", by: int = 1, *, tokens: int = 0) -> None:
        """One row more, the tokens written for it, and what is worth saying about the rows so far."""
        self._done += by
        self._tokens += tokens
        self._note = note
        if self._line is not None:
            self._line.step(self._done, self._tokens, note)
        elif not self._quiet and time.monotonic() - self._said >= EVERY_SECONDS and self._done < self._total:
            self._say()

    def _screen(self) -> "Screen | None":
        """The one there is, which stands before stderr; else, on a terminal, one of its own."""
        module = sys.modules.get("cotdistill.screen")
        there: Screen | None = module.current if module is not None else None
        if there is not None:
            return there
        if sys.stderr.isatty():
            from cotdistill import screen

            self._own = screen.Screen([self._title]).__enter__()
        return self._own

    def _say(self) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._start
        left = (self._total - self._done) * seconds / max(1, self._done - self._first)
        rest = f", {left:.0f} s left" if self._done < self._total else f" in {seconds:.0f} s"
        speed = f", {self._tokens / seconds:.0f} tokens/s" if self._tokens and seconds else ""
        note = f"; {self._note}" if self._note else ""
        print(f"{self._title}: {self._done}/{self._total}{rest}{speed}{note}", file=sys.stderr, flush=True)
