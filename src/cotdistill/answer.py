"""Answer: what a text says its answer is.

    find_answer("15% of 240 is 36.\\nFinal Answer: 36 apples.")
        -> Answer(text="36 apples.", kind="number", value=Quantity(36, "apple"), status="found", source="marker")

The strict reading takes what stands behind the last complete marker and nothing else; the lenient one
(``fallback=True``) goes on to the last number, choice, yes or no, or the quoted, bold or last word, and says
which it took. Everything is pure, linear in the text, and evaluates nothing. Only the last 16,384 characters
before a run-on are read. Not covered here: symbolic answers, which are ``too_complex``.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from cotdistill.reading import kinds
from cotdistill.reading.kinds import MAX_ANSWER, MAX_LIST, kind_of
from cotdistill.reading.lenient import last_answer
from cotdistill.reading.marker import MARKERS, cleaned, marked_in, spoken
from cotdistill.reading.plain import plain
from cotdistill.reading.quantity import LEADS_WITH_NUMBER, NUMBER, Status
from cotdistill.reading.remark import is_remark, taken_back
from cotdistill.reading.value import Value, same_value

__all__ = ["MARKERS", "Answer", "find_answer", "kind_of", "read_answer", "same_answer"]

MAX_TEXT = 16_384
MAX_SENTENCE = 60  # a longer text behind a soft marker, with several numbers, is reasoning and not an answer


class Answer(msgspec.Struct, frozen=True):
    """``text`` is as written ("" if none), ``value`` its normalised meaning (None if none).

    ``source`` says where it stood: "marker", "bare" (the whole text), "last_number", "last_choice",
    "last_yes_no", "last_date", "last_time", "last_list", "quoted", "bold", "last_word", or "" if nowhere."""

    text: str
    kind: str
    value: "Value | None" = None
    status: Status = "no_answer"
    source: str = ""
    flags: tuple[str, ...] = ()


def find_answer(
    text: str,
    kind: str = "auto",
    *,
    markers: tuple[str, ...] = MARKERS,
    fallback: bool = False,
    choices: Sequence[str] | None = None,
) -> Answer:
    """The answer that a model's ``text`` gives. Another turn that it goes on with, its run-on, is not its
    answer, and thinking between ``<think>`` tags is not either. Raises ValueError for an unknown kind."""
    if kind == "auto" and choices:
        kind = "choice"
    said, flags = spoken(text)
    window = said[-MAX_TEXT:]
    patience = 8  # soft markers that led to prose
    spare: Answer | None = None
    in_words = False  # the spare may be the answer itself: only a marker that is not soft outweighs it
    for found in marked_in(window, tuple(markers)):
        marked, soft = found.text, found.soft
        if soft and (len(marked) > MAX_LIST or not patience):
            continue
        asked = _infer(marked[: MAX_ANSWER + 1]) if kind == "auto" else kind
        if found.opens and asked == "number":
            continue
        limit = MAX_LIST if asked == "list" else MAX_ANSWER
        status, value = kinds.read(marked, asked, choices)
        prose = len(marked) > limit or (status == "ambiguous" and len(marked) > MAX_SENTENCE)
        if soft and (status == "no_answer" or prose):
            patience -= 1
            continue
        if status == "found" and taken_back(found.first, window[found.end :]):
            status, value = "ambiguous", None
        answer = Answer(marked[:limit] if status != "no_answer" else "", asked, value, status, "marker", flags)
        remark = is_remark(marked)
        if not (soft and (remark or marked[:4].lower() == "not " or (kind == "auto" and asked == "text"))):
            return spare if spare is not None and soft and in_words else answer
        spare = spare or answer  # "Final Answer: 36. The answer is plausible.", or "... is not 35."
        in_words = in_words or (remark and kind == "text")
    if spare is not None:
        return spare
    asked = kind
    if kind == "auto":
        asked = "number" if re.search("[0-9]", window) else "text"
    if fallback and window and not window.isspace():
        return _fallback(window, asked, choices, flags)
    return Answer("", asked, flags=flags)


def read_answer(text: str, kind: str = "auto", choices: Sequence[str] | None = None) -> Answer:
    """An answer on its own, such as a gold."""
    kind = kind_of(text, choices) if kind == "auto" else kind
    status, value = kinds.read(text, kind, choices)
    return Answer(text.strip(), kind, value, status, "bare" if value is not None else "")


def same_answer(a: Answer | str, b: Answer | str, *, tolerance: float | None = None) -> bool:
    """Whether both give the same answer; False unless both have a value. Reflexive and symmetric.

    A plain string is read as an answer of the other side's kind, two strings as of either one's kind.
    ``tolerance`` is the largest absolute difference between numbers, none by default."""
    if isinstance(a, str) and isinstance(b, str):
        return any(same_answer(_reread(a, k), _reread(b, k), tolerance=tolerance) for k in {kind_of(a), kind_of(b)})
    if isinstance(a, str):
        assert isinstance(b, Answer)
        return same_answer(b, a, tolerance=tolerance)
    other = _reread(b, a.kind) if isinstance(b, str) else b
    if a.value is None or other.value is None or a.kind != other.kind:
        return False
    return same_value(a.value, other.value, tolerance or 0)


@lru_cache(maxsize=4096)
def _reread(text: str, kind: str) -> Answer:
    return read_answer(text, kind)


def _infer(marked: str) -> str:
    """The kind of marked text without a gold: a list only where its form leaves no doubt."""
    kind = kind_of(marked)
    if kind == "list" and marked.strip()[:1] not in "[({":
        status, value = kinds.read(marked, "list")
        clear = status == "found" and isinstance(value, tuple | frozenset) and len(value) > 1 and ", " in marked
        clear = clear and isinstance(value, tuple | frozenset) and not any(isinstance(v, str) for v in value)
        kind = "list" if clear else "text"
    return "number" if kind == "text" and NUMBER.search(plain(marked)) else kind


_LISTED = re.compile(r"^[^\[{(].*(?:[\[{]|:\s)")  # a list with something before it
_PROSE = re.compile(r"(?:\S+\s+){4}|\b(?:is|are|was|were|gives|get|so|it|i|this|that)\b", re.IGNORECASE)


def _fallback(text: str, kind: str, choices: Sequence[str] | None, flags: tuple[str, ...]) -> Answer:
    bare = cleaned(text.strip())
    fits = "\n" not in bare and len(bare) <= 80 and not (_LISTED if kind == "list" else _PROSE).search(bare)
    if fits and (kind != "number" or LEADS_WITH_NUMBER.match(bare)):
        status, value = kinds.read(bare, kind, choices)
        if status == "found":
            return Answer(bare, kind, value, status, "bare", flags)
    written, source, doubtful = last_answer(plain(text)[-MAX_TEXT:], kind, choices)
    if not written:
        return Answer("", kind, flags=flags)
    status, value = ("ambiguous", None) if doubtful else kinds.read(written, kind, choices)
    if value is None:
        return Answer("" if status == "no_answer" else written, kind, None, status, "", flags)
    return Answer(written, kind, value, status, source, flags)
