"""Grade: one response held against gold, read twice.

grade("15% of 240 is 36.", "stop", question)
    -> Grade(answer="36", status="last_number", correct=True, status_strict="no_answer", correct_strict=False)

Symbolic answers (roots, intervals, algebra) are ``too_complex`` unless the caller brings a comparator, such as
``symbolic.same_symbolic``: without one, everything here is pure.
"""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from cotdistill.answer import Answer, find_answer, read_answer, same_answer
from cotdistill.question import Question
from cotdistill.reading.kinds import KINDS, kind_of
from cotdistill.reading.quantity import Quantity

Symbolic: TypeAlias = Callable[[str, str], bool | None]
"""Whether two symbolic answers are the same; None if it cannot say."""


class Grade(msgspec.Struct, frozen=True):
    """``status`` (lenient: the marker, else a named fallback) and ``status_strict`` (the marker alone) are the
    source of the answer, or ``no_answer``, ``truncated``, ``ambiguous``, ``too_complex`` or ``error``.
    ``correct`` is None where there is no gold; otherwise what has no readable answer is wrong."""

    answer: str
    status: str
    correct: bool | None
    status_strict: str
    correct_strict: bool | None


def grade(
    response: str,
    finish: str | None,
    question: Question,
    *,
    symbolic: Symbolic | None = None,
) -> Grade:
    """Grade a response. One that was cut at the token limit counts only if its marker came before the cut."""
    wrong = None if question.gold is None else False
    if finish == "error":
        return Grade("", "error", wrong, "error", wrong)
    gold, kind = gold_of(question)
    strict = find_answer(response, kind, choices=question.choices)
    if finish == "length" and not strict.source:
        return Grade("", "truncated", wrong, "truncated", wrong)
    lenient = strict
    if not strict.source:
        lenient = find_answer(response, kind, choices=question.choices, fallback=True)
    if lenient is strict:
        return Grade(strict.text, *(marks := _mark(strict, gold, symbolic)), *marks)
    return Grade(lenient.text, *_mark(lenient, gold, symbolic), *_mark(strict, gold, symbolic))


def gold_of(question: Question) -> tuple[Answer | None, str]:
    """The gold as an answer, None if nobody knows it, and the kind to read answers as."""
    kind = question.kind if question.kind in KINDS else None  # an unknown one is reported by judge_gold
    if question.gold is None:
        return None, kind or ("choice" if question.choices else "auto")
    kind = kind or kind_of(question.gold, question.choices)
    return read_answer(question.gold, kind, question.choices), kind


def percent_unclear(a: Answer, b: Answer) -> bool:
    """Whether only one of the two says percent, and their numbers would agree if both or neither did: 50%
    against 50 or 0.5 is neither right nor wrong without asking the author of the question."""
    x, y = a.value, b.value
    if not isinstance(x, Quantity) or not isinstance(y, Quantity) or x.percent == y.percent:
        return False
    share, plain_number = (x, y) if x.percent else (y, x)
    return plain_number.number in (share.number, share.number / 100)


def matches(answer: Answer, gold: Answer, symbolic: Symbolic | None = None) -> bool | None:
    """Whether an answer is the gold. Of a gold that is too complex to read ``symbolic`` says so; None if nobody
    can. A gold that can be read is never compared by ``symbolic``: verdicts do not depend on what is installed."""
    if gold.status != "too_complex":
        return None if answer.status == "too_complex" else same_answer(answer, gold)
    return symbolic(answer.text, gold.text) if symbolic and answer.source and answer.text else None


def _mark(answer: Answer, gold: Answer | None, symbolic: Symbolic | None) -> tuple[str, bool | None]:
    status = (answer.source or "no_answer") if answer.status == "found" else answer.status
    if gold is None:
        return status, None
    if percent_unclear(answer, gold):
        return "ambiguous", False
    same = matches(answer, gold, symbolic)
    if gold.status != "too_complex":
        return status, bool(same)
    if same is None:
        return ("too_complex" if answer.status == "found" else status), False
    return answer.source, same
