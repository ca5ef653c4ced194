"""Screen: a whole run on one live screen, on stderr.

    quickstart
      traces     done      100/100        4 min 02 s
      training   running    12/39   ━━━━╺━━━━━━━   0.3/s   1 min 30 s left   loss 0.412, 812 tokens/s
      base       owed
    5 min 40 s, 1.9 GiB at most

One screen at a time is ``current``; every ``progress.Bar`` is a line of it. Lines that are logged meanwhile scroll
by above it.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cotdistill.machine import peak_memory
from cotdistill.shown import one_line, span

current: "Screen | None" = None


class Stage:
    """A line of the screen: how many rows there are to do, and how many are done."""

    def __init__(self, title: str, state: Literal["owed", "running", "done"] = "owed") -> None:
        self.title, self.state = title, state
        self.total = self.done = self.first = self.tokens = 0
        self.note = ""
        self._start = self._end = 0.0

    def begin(self, total: int, done: int) -> None:
        self.total, self.done, self.first, self.tokens, self.state = total, done, done, 0, "running"
        self.note = ""
        self._start = time.monotonic()

    def step(self, done: int, tokens: int, note: str) -> None:
        self.done, self.tokens, self.note = done, tokens, note

    def end(self, *, finished: bool) -> None:
        self.state, self._end = "done" if finished else "owed", time.monotonic()

    def cells(self) -> list[RenderableType]:
        """Title, state, rows, bar, rate, time left or taken, and what is worth saying."""
        running = self.state == "running"
        style = {"running": "bold", "owed": "dim", "done": "green"}[self.state]
        if not self._start:
            return [Text(self.title, style), Text(self.state, style), "", "", "", "", ""]
        seconds = max(1e-9, (time.monotonic() if running else self._end) - self._start)
        rate = (self.done - self.first) / seconds
        left = span((self.total - self.done) / rate) + " left" if rate and running else ""
        speed = f"{self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        return [
            Text(self.title, style),
            Text(self.state, style),
            f"{self.done}/{self.total}" if self.total else "",
            ProgressBar(total=max(1, self.total), completed=self.done, width=16) if running else "",
            f"{rate:.1f}/s" if rate and running else "",
            left if running else span(seconds),
            Text(", ".join(filter(None, (one_line(self.note), speed)))),
        ]


class Screen:
    """``with Screen(["traces", "training"], title="quickstart"): ...``; ``stages`` may say which are done already."""

    def __init__(
        self, stages: Iterable[str] | Mapping[str, bool], *, title: str = "", console: Console | None = None
    ) -> None:
        done = {name for name, is_done in stages.items() if is_done} if isinstance(stages, Mapping) else set()
        self._stages = {name: Stage(name, "done" if name in done else "owed") for name in stages}
        self._title = title
        self._start = time.monotonic()
        # What a command prints is for stdout, and stays there.
        console = console or Console(stderr=True)
        self._live = Live(self, console=console, refresh_per_second=4, redirect_stdout=False)
        self._streams: list[tuple[Any, Any]] = []

    def __enter__(self) -> Self:
        global current
        self._live.start()
        current = self
        for handler in logging.getLogger().handlers:  # they hold the stream from before, and would write over it
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                self._streams.append((handler, handler.setStream(sys.stderr)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global current
        current = None
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._live.stop()

    def begin(self, title: str, total: int, done: int) -> Stage:
        """The line of a stage that begins now; a new one where it was not foreseen."""
        stage = self._stages.setdefault(title, Stage(title))
        stage.begin(total, done)
        return stage

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for column in range(7):
            table.add_column(no_wrap=True, overflow="ellipsis", justify="right" if column in (2, 4) else "left")
        for stage in self._stages.values():
            table.add_row(*stage.cells())
        whole = Table.grid()
        if self._title:
            whole.add_row(Text(one_line(self._title), "bold"))
        whole.add_row(table)
        whole.add_row(Text(", ".join(filter(None, (span(time.monotonic() - self._start), memory()))), "dim"))
        return whole


def watched(stages: Mapping[str, bool], *, title: str, quiet: bool) -> AbstractContextManager[object]:
    """A screen on a terminal, unless ``quiet``; nothing elsewhere."""
    return Screen(stages, title=title) if sys.stderr.isatty() and not quiet else contextlib.nullcontext()


def memory() -> str:
    """The most that this process has held so far, and of a GPU's memory where torch uses one; "" where neither is
    known."""
    torch, said = sys.modules.get("torch"), []
    if most := peak_memory():
        said.append(f"{most / 2**30:.1f} GiB at most")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        said.append(f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB on the GPU")
    return ", ".join(said)
