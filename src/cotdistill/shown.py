"""Shown: text of models and of users' files, made safe to print; shares and times as people write them.

    "36\\x1b[2J"  ->  "36\\\\x1b[2J"        "a\\u202e63"  ->  "a\\\\u202e63"
"""

from collections.abc import Sequence
from typing import Literal

TableFormat = Literal["table", "markdown", "csv", "latex"]
"""How the table of a report is shown; ``table`` is the terminal's own, see ``reporting.tabular`` for the others."""


def visible(text: str) -> str:
    """Text in which control, bidirectional and other invisible characters are written as escapes, so that they
    cannot drive a terminal or reorder what is read; line breaks and tabs stay."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """The same with breaks and tabs as escapes too, for a line of a log."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def cause_of(error: BaseException) -> str:
    """What a library says of a failure, in a line that fits into one of our sentences: ``OSError: no such file``."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def first_of(names: Sequence[str]) -> str:
    """Five names of many: ``q1, q2, q3, q4, q5, ...``."""
    return ", ".join(map(one_line, names[:5])) + (", ..." if len(names) > 5 else "")


def percent(share: float | None) -> str:
    """``51 %``; with one digit more below 10, where it matters; ``-`` where there is no share."""
    if share is None:
        return "-"
    return f"{100 * share:.1f} %" if 0 < abs(share) < 0.095 else f"{100 * share:.0f} %"


def span(seconds: float) -> str:
    """``4 s``, ``2 min 11 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"
