r"""Symbolic answers: LaTeX, intervals, matrices and algebra, compared by math-verify in child processes.

    same_symbolic(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}")  ->  True
    same_symbolic("2x + 3", "2x + 4")                            ->  False
    same_symbolic("9^{9^{9^9}}", "1")                            ->  None, after at most the pool's seconds

sympy can hang, eat all memory, and evaluate text as Python, so none of it happens in this process: a child reads
two strings as a JSON line and answers with one word. A child that is late is killed, and another starts at once.
Usable from any thread, from asyncio (it blocks) and under every start method. Without the ``math`` extra the
answer is None, and one log line a process says what to install.
"""

import atexit
import contextlib
import functools
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from cotdistill.reading.kinds import CODE

MAX_INPUT = 400  # characters a side
SECONDS = 5.0  # wall clock a row
MEMORY = 1 << 30  # bytes of address space a child
WORKERS = 2
START_SECONDS = 120.0  # for a child to import sympy on a busy machine
_WORKER = Path(__file__).with_name("symbolic_worker.py")
_log = logging.getLogger(__name__)


def same_symbolic(a: str, b: str) -> bool | None:
    """Whether two symbolic answers are equal; None where nobody can say: not LaTeX, too long, over a cap, or
    math-verify is not installed. Symmetric; never raises."""
    return _default().same(a, b) if available() else None


@functools.cache
def available() -> bool:
    """Whether the ``math`` extra is installed. Logs what to install, once, if not."""
    if importlib.util.find_spec("math_verify") is not None:
        return True
    _log.warning('symbolic answers are not compared without math-verify: pip install math-verify')
    return False


class Pool:
    """At most ``workers`` children, each started when first needed and used by one row at a time."""

    def __init__(self, workers: int = WORKERS, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self._free = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._closed = False

    def same(self, a: str, b: str) -> bool | None:
        """As ``same_symbolic``, whether or not math-verify is installed."""
        pair = [latex(a), latex(b)]
        if None in pair or ("%" in a) != ("%" in b):
            return None
        with self._free:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            child = child or _Child(self.seconds, self.memory)
            try:
                return child.ask(sorted(map(str, pair)))  # sorted, so the order cannot matter
            finally:
                self._put_back(child)

    def _put_back(self, child: "_Child") -> None:
        if not child.alive():
            child.kill()
            child = _Child(self.seconds, self.memory)  # imports while nobody waits for it
        with self._lock:
            self._idle.append(child)
            closed = self._closed
        if closed:
            self.close()

    def close(self) -> None:
        """End every child that is not at work, and the others when they are done."""
        with self._lock:
            self._closed, children, self._idle = True, self._idle, []
        for child in children:
            child.kill()


class _Child:
    """One process. Not for two threads at once."""

    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.ready = seconds, False
        self.process = subprocess.Popen(
            # -P: neither this package's modules nor the user's may stand in for the standard library's
            [sys.executable, "-P", str(_WORKER), str(seconds), str(memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="ascii",
        )  # fmt: skip

    def ask(self, pair: list[str]) -> bool | None:
        if not self.ready:
            said = self._line(START_SECONDS)
            self.ready = said == "ready"
            if not self.ready:
                _log.warning("the process for symbolic answers cannot start: %s", said or "it was killed")
                self.kill()
                return None
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(pair) + "\n")
            self.process.stdin.flush()
            said = self._line(self.seconds)
            return said if isinstance(said, bool) else None
        return None

    def _line(self, seconds: float) -> object:
        """The next line the child says, None if it says none in time; then it is dead."""
        assert self.process.stdout is not None
        late = threading.Timer(seconds, self.process.kill)
        late.daemon = True
        late.start()
        try:
            line = self.process.stdout.readline()
        finally:
            late.cancel()
        if not line.endswith("\n"):
            self.kill()
            return None
        return json.loads(line)

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


@functools.cache
def _default() -> Pool:
    pool = Pool()
    atexit.register(pool.close)
    return pool


# A forked process must not talk to its parent's children.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default.cache_clear)


# --- from what people write to LaTeX

_MATH = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_ASSIGNED = re.compile(r"^[A-Za-z](?:\([a-z]\))?\s*=\s*(?=[^=]+$)")
_WORD = re.compile(r"(?<![\\a-zA-Z{])[A-Za-z]{4,}|\s(?:the|is|and|or|not|no)\s", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPELLINGS = [
    (re.compile(r"(?<![\\a-z])sqrt\s?\(([^()]*)\)|√\(([^()]*)\)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√\s?([0-9]+|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])(pi|ln|log|sin|cos|tan|infty)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"(?<![\\a-zA-Z])(?:inf|infinity|oo)(?![a-zA-Z])|∞"), r"\\infty "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\(([^()]*)\)|\^(-?[0-9]{2,})"), r"^{\1\2}"),
    (re.compile(r"[*×·]"), r"\\cdot "),
    (re.compile(r">=|≥"), r"\\ge "),
    (re.compile(r"<=|≤"), r"\\le "),
    (re.compile(r"!=|≠"), r"\\ne "),
    (re.compile("π"), r"\\pi "),
    (re.compile("∪"), r"\\cup "),
    (re.compile("[−–]"), "-"),
]


def latex(answer: str) -> str | None:
    """One piece of LaTeX for an answer's text, without the name before a single ``=``; None if it is prose, a
    program, too long, or holds several formulas or a control character."""
    text = answer.strip().rstrip(".").strip()
    if not text or len(text) > MAX_INPUT or CODE.search(text) or _CONTROL.search(text):
        return None
    formulas = [next(group for group in match.groups() if group) for match in _MATH.finditer(text)]
    if len(formulas) > 1:
        return None
    text = formulas[0].strip() if formulas else text.replace("$", "")
    boxed = re.fullmatch(r"\\boxed\s?\{(.*)\}", text, re.DOTALL)
    text = _ASSIGNED.sub("", boxed[1] if boxed else text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return None if _WORD.search(text) else text
