"""Value: what an answer says, in a form that can be compared.

A Quantity, an upper-case letter, a bool, an ISO string, a tuple (a frozenset where order does not count) or a
normalised string.
"""

from collections.abc import Collection
from typing import TypeAlias

from cotdistill.reading.doubt import denied
from cotdistill.reading.quantity import Quantity, Status
from cotdistill.reading.units import units_clash

Value: TypeAlias = "Quantity | str | bool | tuple[Value, ...] | frozenset[Value]"
Reading: TypeAlias = "tuple[Status, Value | None]"


def one_of(text: str, found: list[tuple[str, int, int]]) -> Reading:
    """The one value among those found, as (value, start, end), unless the text denies one."""
    if any(denied(text, start, end) for _, start, end in found):
        return "ambiguous", None
    return one({value for value, _, _ in found})


def one(values: Collection[str | bool]) -> Reading:
    """The value if there is just one."""
    for value in values if len(values) == 1 else ():
        return "found", value
    return ("ambiguous" if values else "no_answer"), None


def same_value(a: Value, b: Value, tolerance: float = 0) -> bool:
    """Whether two values of one kind are the same answer. ``tolerance`` is an absolute difference."""
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        if a.percent != b.percent or units_clash(a.unit, b.unit):
            return False
        return a.number == b.number or abs(a.number - b.number) <= tolerance
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same_value(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, frozenset) and isinstance(b, tuple):
        a, b = b, a
    if isinstance(b, frozenset) and isinstance(a, tuple | frozenset):
        return len(a) == len(b) and _pairs_off(list(a), list(b), tolerance)
    return type(a) is type(b) and a == b


def _pairs_off(a: list[Value], b: list[Value], tolerance: float) -> bool:
    if len(a) > 50:  # pairing is quadratic
        return set(a) == set(b)
    both = set(a) & set(b)
    rest = sorted((y for y in b if y not in both), key=repr)
    for x in sorted((x for x in a if x not in both), key=repr):
        match = next((i for i, y in enumerate(rest) if same_value(x, y, tolerance)), None)
        if match is None:
            return False
        del rest[match]
    return True
