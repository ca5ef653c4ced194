"""Interrupt: Ctrl-C, SIGTERM and a terminal that hangs up end a command within five seconds, wherever it is.

The first one raises ``KeyboardInterrupt`` in the main thread, so that files are closed and rows in flight are
finished or dropped whole. Python does that only between two of its own instructions, and a long backward pass or a
llama.cpp batch is a single one. So a thread watches, too: after ``GRACE`` seconds, or at the second signal, it ends the
process, which harms no file more than a SIGKILL does.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
GRACE = 4.0
"""Seconds between the first signal and the end."""

INTERRUPTED = "interrupted; the same command goes on from here"
EXIT_CODE = 130


@contextlib.contextmanager
def while_loading() -> Iterator[None]:
    """Ctrl-C before ``stop_in_time``, while a command's modules load, is an interruption like any other."""
    try:
        yield
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(EXIT_CODE)


def stop_in_time() -> None:
    """Take over these signals for this process; to be called once, in the main thread. A signal that whoever
    started us had turned off (``nohup``, a job in the background of a script) stays off."""
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_no_longer_told)
    threading.Thread(target=_watch, args=(heard,), daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _no_longer_told() -> None:
    """A child shares the descriptor: a signal that ends it, as vLLM ends its own, is none to us."""
    signal.set_wakeup_fd(-1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for known in SIGNALS:
        if signal.getsignal(known) == _interrupt:
            signal.signal(known, _let_the_thread_do_it)  # cleaning up is not interrupted once more
    raise KeyboardInterrupt


def _let_the_thread_do_it(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: the system would then not tell the thread either."""


def _watch(heard: socket.socket) -> None:
    _next(heard)
    heard.settimeout(GRACE)
    with contextlib.suppress(TimeoutError):
        _next(heard)
    leave()


def _next(heard: socket.socket) -> None:
    """Wait for one of ours: the wakeup descriptor also gets the signals that a library handles."""
    while heard.recv(1)[0] not in SIGNALS:
        continue


def leave() -> NoReturn:
    """End the process at once, from whatever thread."""
    with contextlib.suppress(OSError):  # the terminal may be what has gone
        os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_CODE)
