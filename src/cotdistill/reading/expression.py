"""Expression: what a row of items comes to.

    evaluate(items_of("2 + 3 * 4"))  ->  14

A small precedence parser: no names, no calls, no powers above 20, nothing but exact arithmetic.
"""

from collections.abc import Sequence
from fractions import Fraction

from cotdistill.reading.item import Exact, Item

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "of": 3, "^": 4}


def evaluate(items: Sequence[Item], *, shares: bool = True, flat: bool = False) -> Exact | None:
    """The value of an expression; None if it is not one, divides by zero, or grows beyond all reason.

    ``shares``: 15% counts as 0.15, else as 15. ``flat``: operators apply in the order written."""
    if len(items) > 200:
        return None
    try:
        return _Parser(items, shares, flat).whole()
    except (ValueError, ZeroDivisionError):
        return None


class _Parser:
    def __init__(self, items: Sequence[Item], shares: bool, flat: bool) -> None:
        self.items, self.shares, self.flat, self.at, self.depth = items, shares, flat, 0, 0

    def whole(self) -> Exact:
        value = self.binary(0)
        if self.at < len(self.items):
            raise ValueError("not an expression")
        return value

    def binary(self, above: int) -> Exact:
        left = self.operand()
        while self.at < len(self.items) and self.items[self.at].kind == "operator":
            sign = self.items[self.at].sign
            level = _PRECEDENCE[sign]
            if not self.flat and level <= above:
                break
            self.at += 1
            left = _apply(sign, left, self.operand() if self.flat else self.binary(level))
        return left

    def operand(self) -> Exact:
        if self.at >= len(self.items):
            raise ValueError("an operand is missing")
        item = self.items[self.at]
        self.at += 1
        if item.kind == "number":
            return Fraction(item.value) / 100 if item.percent and self.shares else item.value
        self.depth += 1
        if self.depth > 30:
            raise ValueError("too deep")
        if item.kind == "operator" and (item.sign == "-" or (item.sign == "+" and self.at == 1)):
            value = self.operand()
            self.depth -= 1
            return -value if item.sign == "-" else value
        if item.kind != "(":
            raise ValueError("an operand is missing")
        value = self.binary(0)
        if self.at >= len(self.items) or self.items[self.at].kind != ")":
            raise ValueError("an open bracket")
        self.at += 1
        self.depth -= 1
        return value


def _apply(sign: str, a: Exact, b: Exact) -> Exact:
    if max(a.numerator.bit_length(), a.denominator.bit_length(), b.numerator.bit_length()) > 2000:
        raise ValueError("too large")
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b
    if sign in ("*", "of"):
        return a * b
    if sign == "/":
        return Fraction(a) / b
    if b.denominator != 1 or not -20 <= b <= 20 or a.numerator.bit_length() > 100:
        raise ValueError("too large a power")
    power = Fraction(1)
    for _ in range(int(b) if b >= 0 else -int(b)):
        power *= a
    return power if b >= 0 else 1 / power
