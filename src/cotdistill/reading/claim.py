"""Claim: one equation that a text makes.

    "So she pays $12 x 4 weeks = $48 in all."  ->  12 * 4(weeks) = 48, behind the words "so she pays"

An equation is a claim if a calculation stands on at least one side and nothing but numbers on both. Labels
("Day 2 = 5 + 3"), algebra (``2x + 5 = 13``), comparisons and clock times are none, nor is what begins or ends beside
a sign that is not read (``√16 + 1 = 5``, ``3 boxes @ 5 + 2 = 17``) or what the text asks or takes back
("Is 5 + 3 = 9? No.").
"""

import re
import unicodedata
from collections.abc import Iterator

import msgspec

from cotdistill.reading.doubt import strange
from cotdistill.reading.expression import evaluate
from cotdistill.reading.item import Item, items_of
from cotdistill.reading.plain import plain
from cotdistill.reading.units import KNOWN, PARTS, words_of

MAX_TEXT = 20_000
_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")
_BULLET = re.compile(r"^[ \t]*(?:[-*•][ \t]+|\(?[0-9]{1,2}[.)][ \t]+)+", re.MULTILINE)
_MARKUP = re.compile(r"\*\*(?![0-9(])|(?<![0-9)])\*\*|&(?==)|`")
_MERIDIEM = re.compile(r"(?<=[0-9])(\s?[ap])\.\s?m\b\.?", re.IGNORECASE)
# What may stand before a claim; before one that begins with a sign, much less.
_MARKS_BEFORE = frozenset({*",.;:?!\"'“”‘’…–—•·|#~≈<>≤≥→$€£¥₹", 
                          "time", "line", "words", "=>", "->", "==", ">=", "<=", "~=", ":="})  # fmt: skip
_MARKS_BEFORE_SIGN = frozenset({",", ";", ":", ".", "?", '"', "“", "line", "=>", "->", "→"})
_ASKED = re.compile(
    r"[^\n=.!]{0,30}?\?|[^\n=]{0,30}?(?:[✗✘❌]|(?<!\w)(?:no[,.!:]|"
    r"(?:does not|doesn't) (?:hold|work)|(?:which|that|this) fails|contradiction|"
    r"(?:(?:is|was)n't|not|cannot be) (?:right|true|correct|possible))"
    r"|(?:'s|(?<!\w)(?:is|was|be|seems)|[(,.;:])\s?(?:wrong|incorrect|false|impossible|a mistake))(?!\w)",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(r"(?:(?<!\w)(?:not|never|incorrect|wrong|false|mistake|if|suppose|assume)|n't|cannot be)"
                         r"(?: that| to (?:say|write))?[\W_]{0,4}$", re.IGNORECASE)  # fmt: skip
_OTHER = words_of("mod base binary octal hexadecimal hex xor")  # another arithmetic
_FILLERS = words_of("a an the total of only exactly just still sum")


class Claim(msgspec.Struct, frozen=True):
    """One equation: the items on both sides, up to two items before it, and its text."""

    left: tuple[Item, ...]
    right: tuple[Item, ...]
    before: tuple[Item, ...]
    text: str
    open: bool = False  # the right side goes on with something that is not a number


def claims_in(text: str) -> Iterator[Claim]:
    """The equations of a text, those in GSM8K's ``<<...>>`` first."""
    text = text[:MAX_TEXT]
    if "=" not in text and (text.isascii() or "=" not in plain(text)):
        return
    if "<<" in text:
        yield from _equations(plain("\n".join(_ANNOTATION.findall(text))))
        text = _ANNOTATION.sub("", text)
    yield from _equations(_MERIDIEM.sub(r"\1m", _MARKUP.sub("", _BULLET.sub("", plain(text)[:MAX_TEXT]))))


def _equations(text: str) -> Iterator[Claim]:
    items = items_of(text)
    for at, item in enumerate(items):
        if item.kind != "=":
            continue
        first, last = _left_start(items, at), _right_end(items, at)
        left, right = items[first:at], items[_right_start(items, at) : last]
        goes_on = bool(right) and right[-1].kind in ("operator", "(")
        goes_on = goes_on or any(_OTHER.intersection(item.words[:1]) for item in items[last : last + 3])
        goes_on = goes_on or _compound(items[last - 1 : last + 2]) or _unread_behind(items, last)
        while right and right[-1].kind in ("operator", "("):
            right = right[:-1]
        before = tuple(items[max(0, first - 2) : first])
        if _is_claim(left, right, before) and not _compound([*before, left[0]]) and not _is_rejected(text, left, right):
            yield Claim(tuple(left), tuple(right), before, text[left[0].start : right[-1].end].strip(), goes_on)


def _left_start(items: list[Item], equals: int) -> int:
    depth = 0
    for at in range(equals - 1, max(-1, equals - 200), -1):
        kind = items[at].kind
        depth += (kind == ")") - (kind == "(")
        if kind in ("=", "break") or depth < 0:
            return at + 1
    return max(0, equals - 199)


def _right_start(items: list[Item], equals: int) -> int:
    after = items[equals + 1] if equals + 1 < len(items) else None
    return equals + 2 if after and after.sign == "words" and _FILLERS.issuperset(after.words) else equals + 1


def _right_end(items: list[Item], equals: int) -> int:
    depth = 0
    for at in range(_right_start(items, equals), min(len(items), equals + 200)):
        kind = items[at].kind
        depth += (kind == "(") - (kind == ")")
        if kind in ("=", "break") or depth < 0:
            return at
    return min(len(items), equals + 200)


def _is_claim(left: list[Item], right: list[Item], before: tuple[Item, ...]) -> bool:
    if not left or not right or any(item.vague for item in (*left, *right)):
        return False
    last = before[-1] if before else None
    if not _calculates(left):  # "Day 3 = 4 + 5" is no equation, "24 = 12 * 2" is one
        chained = last is not None and last.kind == "="
        clean = chained or ((last is None or last.sign == "line") and len(left) == 1 and not left[0].words)
        if not (clean and _calculates(right)) and not (chained and _is_bare(left) and _is_bare(right)):
            return False
    mark = last.sign if last is not None and last.kind == "break" and last.end > last.start else "line"
    if mark not in _MARKS_BEFORE and unicodedata.category(mark) != "So":
        return False
    if last is not None and last.sign == " ":
        return False  # "log_2 8 + 1"
    if left[0].kind == "operator" and (left[0].sign not in "+-" or mark not in _MARKS_BEFORE_SIGN):
        return False  # no sign, but the end of something longer
    if left[0].kind == "(" and mark == "words" and last is not None and last.end == left[0].start:
        return False  # sin(30) + 1
    if last is not None and last.sign in (",", ".") and last.end == left[0].start:
        return False  # 13,2000 or 1.2.3
    if last is not None and last.kind == "break" and last.sign in ("(", "*") and left[0].kind == "(":
        return False  # "1/2 (68) + 10" continues what stands before the bracket
    if left[0].kind == "operator" and [item.sign for item in before] == [".", "."]:
        return False  # "1 + 2 + ... + 9 + 10"
    if len(before) == 2 and before[0].kind == "operator":
        return False  # "Ann + 3 * 4 = 12"
    return evaluate(left) is not None and evaluate(right) is not None


def _is_bare(side: list[Item]) -> bool:
    """Whether this is one number without a unit: the 8 and the 9 of "5 + 3 = 8 = 9"."""
    return len(side) == 1 and not (side[0].words or side[0].currency or side[0].percent)


def _compound(around: list[Item]) -> bool:
    """Whether two numbers around a gap are one quantity: "6 ft 2 in", "1 hour and 30 minutes"."""
    if len(around) < 3 or around[0].kind != "number" or around[2].kind != "number" or not around[2].words:
        return False
    first, gap, second = around
    unit = KNOWN.get(first.words[0]) if len(first.words) == 1 else None
    joined = gap.kind == "break" and (gap.start == gap.end or gap.words == ("and",))
    return joined and any(unit == large and KNOWN.get(second.words[0], "inch") == small for large, small in PARTS)


def _unread_behind(items: list[Item], last: int) -> bool:
    """Whether the right side ends beside a sign that is not read: "= 2√16", "= 5!"."""
    after = items[last] if last < len(items) else None
    if after is None or after.kind != "break" or after.end == after.start:
        return False
    glued = after.start == items[last - 1].end
    return (after.sign == "!" and glued) or strange(after.sign[0]) or after.sign in ("^", "_", "‰")


def _is_rejected(text: str, left: list[Item], right: list[Item]) -> bool:
    """Whether the text asks for the equation, supposes it, or takes it back."""
    start, end = left[0].start, right[-1].end
    return bool(_TAKEN_BACK.search(text[max(0, start - 40) : start]) or _ASKED.match(text, end))


def _calculates(items: list[Item]) -> bool:
    return any(item.kind == "operator" for item in items[1:])
