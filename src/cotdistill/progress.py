"""Progress: a bar on a terminal, a plain line every ten seconds elsewhere. All of it goes to stderr."""

import sys
import time
from types import TracebackType
from typing import Any, Self

EVERY_SECONDS = 10.0


class Bar:
    """``with Bar("teacher", total=100, done=20) as bar: bar.step("18 correct")``.

    ``done`` rows were there before; the rate and the time left count only what this process does.
    """

    def __init__(self, title: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._quiet = quiet
        self._note = ""
        self._start = self._said = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._rich = Progress(
                TextColumn("{task.description:<12}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False), console=Console(stderr=True),
            )  # fmt: skip
            self._rich.start()
            self._task = self._rich.add_task(self._title, total=self._total, completed=self._done, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif not self._quiet and self._done > self._first:
            self._say()

    def total(self, total: int, done: int) -> None:
        """Say how many there are, once that is known; ``done`` counts the step that is about to be reported."""
        if total != self._total:
            self._total, self._done, self._first = total, done - 1, done - 1
            if self._rich is not None:
                self._rich.update(self._task, total=total)

    def step(self, note: str = "", by: int = 1) -> None:
        """One row more, and what is worth saying about the rows so far."""
        self._done += by
        self._note = note
        if self._rich is not None:
            self._rich.update(self._task, completed=self._done, note=note)
        elif not self._quiet and time.monotonic() - self._said >= EVERY_SECONDS and self._done < self._total:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._start
        left = (self._total - self._done) * seconds / max(1, self._done - self._first)
        rest = f", {left:.0f} s left" if self._done < self._total else f" in {seconds:.0f} s"
        note = f"; {self._note}" if self._note else ""
        print(f"{self._title}: {self._done}/{self._total}{rest}{note}", file=sys.stderr, flush=True)
