"""The child process that compares symbolic answers; run as a script, never imported by the rest.

    stdin   ["\\\\sqrt{8}", "2\\\\sqrt{2}"]          stdout  true

One JSON line in, one out: ``true``, ``false`` or ``null`` (cannot be read, or not enough memory). The first
line out is ``"ready"`` or why the child cannot work. Only the LaTeX reader of math-verify is used: its reader of
plain expressions hands text to sympy's ``parse_expr``, which evaluates it as Python. The LaTeX reader does so
with the numbers it finds, and nothing but a number or a single name gets through.
"""

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import IO, Any

# What sympy may evaluate: the numbers that math-verify's reader finds, and single names of sympy's own.
_HARMLESS = re.compile(
    r"\s*(?:(?:Integer|Float)\s*\(\s*'?[0-9.eE+-]{1,400}'?\s*\)|Symbol\s*\(\s*'\w{1,20}'\s*\)|[A-Za-z]{1,4})\s*"
)


def main(seconds: float, memory: int) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    try:
        _limit(memory)
        from sympy.parsing import sympy_parser

        logging.disable()  # its advice to use a timeout: the alarm and the parent are one
        sympy_parser.eval_expr = _only_harmless(sympy_parser.eval_expr)
        compare("x^2 - 1", "(x - 1)(x + 1)")  # imports what a row would wait for
    except Exception as error:
        _say(answers, f"{type(error).__name__}: {error}")
        return
    _say(answers, "ready")
    for line in sys.stdin:
        _alarm(seconds + 1)
        try:
            same = compare(*json.loads(line))
        except MemoryError:
            _say(answers, None)
            return  # what it left behind may not be whole
        except Exception:
            same = None
        _alarm(0)
        _say(answers, same)


def compare(a: str, b: str) -> bool | None:
    """Whether two pieces of LaTeX mean the same in both directions; None if one of them cannot be read."""
    import math_verify

    config = [math_verify.LatexExtractionConfig()]
    read = [
        math_verify.parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None) for text in (a, b)
    ]
    if not all(read):
        return None
    return all(
        bool(math_verify.verify(x, y, float_rounding=12, timeout_seconds=None, raise_on_error=True))
        for x, y in (read, reversed(read))
    )


def _only_harmless(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    def checked(code: str, *scope: Any) -> Any:
        if not _HARMLESS.fullmatch(code):
            raise ValueError("no other text is evaluated")
        return evaluate(code, *scope)

    return checked


def _limit(memory: int) -> None:
    """Cap the address space. Where the system has no such limit, the wall clock alone decides."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _alarm(seconds: float) -> None:
    """End this process in ``seconds`` even if its parent is gone: no handler, so no code of ours has to run."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _say(answers: IO[str], value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
