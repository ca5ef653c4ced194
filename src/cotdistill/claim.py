"""Claim: one equation that a text makes.

    "So she pays $12 x 4 weeks = $48 in all."  ->  12 * 4(weeks) = 48, behind the words "so she pays"

An equation is a claim if a calculation stands on at least one side and nothing but numbers on both. Labels
("Day 2 = 5 + 3"), algebra (``2x + 5 = 13``), comparisons and clock times are none.
"""

import re
from collections.abc import Iterator

import msgspec

from cotdistill.expression import Item, evaluate, items_of, words_of
from cotdistill.plain import plain

MAX_TEXT = 20_000
_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")
_BULLET = re.compile(r"^[ \t]*(?:[-*•][ \t]+|\(?[0-9]{1,2}[.)][ \t]+)+", re.MULTILINE)
_MARKUP = re.compile(r"\*\*(?![0-9(])|(?<![0-9)])\*\*|&(?==)|`")
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
    if "=" not in text:
        return
    if "<<" in text:
        yield from _equations(plain("\n".join(_ANNOTATION.findall(text))))
        text = _ANNOTATION.sub("", text)
    yield from _equations(_MARKUP.sub("", _BULLET.sub("", plain(text))))


def _equations(text: str) -> Iterator[Claim]:
    items = items_of(text)
    for at, item in enumerate(items):
        if item.kind != "=":
            continue
        first, last = _left_start(items, at), _right_end(items, at)
        left, right = items[first:at], items[_right_start(items, at) : last]
        goes_on = bool(right) and right[-1].kind in ("operator", "(")
        goes_on = goes_on or any(item.words[:1] == ("mod",) for item in items[last : last + 3])
        while right and right[-1].kind in ("operator", "("):
            right = right[:-1]
        before = tuple(items[max(0, first - 2) : first])
        if _is_claim(left, right, before):
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
        if not clean or not _calculates(right):
            return False
    continues = last is not None and last.sign in ("words", "time")
    if left[0].kind == "operator" and (left[0].sign not in "+-" or continues):
        return False  # no sign, but the end of something longer
    if last is not None and last.sign in (",", ".") and last.end == left[0].start:
        return False  # 13,2000 or 1.2.3
    if last is not None and last.kind == "break" and last.sign in ("(", "*") and left[0].kind == "(":
        return False  # "1/2 (68) + 10" continues what stands before the bracket
    if len(before) == 2 and before[0].kind == "operator":
        return False  # "Ann + 3 * 4 = 12"
    return evaluate(left) is not None and evaluate(right) is not None


def _calculates(items: list[Item]) -> bool:
    return any(item.kind == "operator" for item in items[1:])
