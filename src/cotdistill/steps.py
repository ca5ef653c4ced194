"""Steps: the arithmetic written inside a trace, checked claim by claim.

    check_steps("15% of 240 = 36, then 36 + 4 = 41.") -> Steps(claims=2, bad=("36 + 4 = 41",))

A claim is an equation with a calculation on at least one side: ``3 apples + 4 apples = 7 apples``,
``$12 x 4 = $48``, ``3/4 * 20 = 15``, chains ``2 + 3 = 5 = 10/2``, and GSM8K's ``<<16-3=13>>``. Precision comes
first: a claim is bad only if no reasonable reading makes it true. Never bad, because not certain: roundings
as written, sums that mix units or percents, numbers whose meaning the words before them change ("half of
20"), algebra with letters. Not covered: claims in words ("3 plus 4 is 7"), roots, comparisons, ``≈``, and whatever
stands beside a word or sign of mathematics that is not read: that is skipped. Only the first 20,000 characters are
checked.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import msgspec

from cotdistill.reading.claim import Claim, claims_in
from cotdistill.reading.expression import evaluate
from cotdistill.reading.item import Exact, Item
from cotdistill.reading.units import KNOWN, LENGTHS, singular, words_of

MAX_CLAIMS = 300
MAX_ROUNDED = 12  # rounded numbers on a side; more may be off by anything


def _stems(text: str) -> frozenset[str]:
    return frozenset(map(singular, text.split()))


_MONTHS = ("january february march april may june july august september october november december "
           "jan feb mar apr jun jul aug sep sept oct nov dec")  # fmt: skip
# Words before an expression that change what its first number means, or are followed by a mere label.
_CHANGES = _stems(
    "half twice double triple thrice quarter third fourth fifth sixth eighth tenth times plus minus less more than "
    "fewer dozen square root squared cubed sqrt per every over log one two three four five six seven eight nine "
    "ten eleven twelve twenty hundred thousand million step day week month year part question number no case room "
    "grade age chapter q problem equation option line group level box bus page figure table example point stage "
    "phase round sin cos tan cot sec csc exp ln lg cbrt abs floor ceil gcd lcm max min det factorial power "
    + _MONTHS
)
# "a third of 30 - 5", but "a total of 30 - 5"
_PARTS = _stems(
    "half third quarter fourth fifth sixth seventh eighth ninth tenth percent part fraction most some one two three "
    "four multiple square root power average mean each all both out"
)
_BY = _stems("divide divided dividing multiply multiplied multiplying")
_MANY = _stems("hundred thousand million billion trillion lakh crore")  # elided on one side: "16 + 12 = 28 million"
_SCALES = _stems("dozen pair k half quarter couple") | _MANY
_MATHS = _stems("squared cubed root sqrt factorial permille power pi mod modulo plus minus "
                "divided multiplied choose")  # fmt: skip
# Behind a number these calculate on, or make it a time or a date, where 11 + 3 is 2.
_UNREAD = _MATHS | _stems("am pm o'clock noon midnight " + _MONTHS)
_DAY_PARTS = _stems("morning afternoon evening night")
_VERBS = words_of("we i you get gives give is are was were have has had will equals means leaves makes")
_DIMENSIONS = [words_of("second minute hour day week month year"), words_of("cent dollar"), LENGTHS,
               words_of("kg g mg pound ounce ton"),
               words_of("l ml gallon cup ounce pint quart tablespoon teaspoon")]  # fmt: skip
# How many of one unit make another, for "2 * 30 minutes = 1 hour".
_FACTORS = frozenset({2, 3, 4, 7, 8, 10, 12, 16, 24, 30, 36, 52, 60, 100, 128, 365, 1000, 1440, 1760, 2000, 3600, 5280})
_LETTERS = frozenset(w for w in KNOWN if len(w) == 1) | {"a", "/", "-", ""}


class Steps(msgspec.Struct, frozen=True):
    """``claims`` is how many equations were read; ``bad`` are those that are certainly false, as written."""

    claims: int
    bad: tuple[str, ...]


def check_steps(text: str) -> Steps:
    """Check the explicit arithmetic claims in ``text``, at most 300. Pure, linear, never raises on any text."""
    seen: dict[str, bool] = {}
    claims = 0
    for claim in claims_in(text):
        claims += 1
        if claim.text not in seen or seen[claim.text]:
            seen[claim.text] = holds(claim)
        if claims >= MAX_CLAIMS:
            break
    return Steps(claims, tuple(written for written, true in seen.items() if not true))


# --- is it certainly false?


def holds(claim: Claim) -> bool:
    """False only if the claim is certainly false."""
    if any(sum(map(_looks_rounded, side)) > MAX_ROUNDED for side in (claim.left, claim.right)):
        return True
    return any(_agree(left, right) for left in _lefts(claim) for right in _rights(claim)) or _uncertain(claim)


def _lefts(claim: Claim) -> Iterator[tuple[Item, ...]]:
    yield claim.left
    if len(claim.left) > 4 and claim.left[1].sign == "-" and claim.before:
        yield claim.left[2:]  # "Step 1 - 3 + 4 = 7"
    if claim.left[0].sign in ("-", "+"):
        yield claim.left[1:]  # a bullet or a dash


def _rights(claim: Claim) -> Iterator[tuple[Item, ...]]:
    yield claim.right
    fraction = len(claim.right) == 3 and claim.right[1].sign == "/" and claim.right[0].end == claim.right[1].start
    if len(claim.right) > 1 and claim.right[0].kind == "number" and not fraction:  # "3/4 - 1/2 = 1/2" does not say 1
        yield claim.right[:1]  # "5 + 3 = 8 + 2 = 10", a running total
    if len(claim.right) > 2 and claim.right[0].sign == "-":
        yield claim.right[:2]


def _agree(left: tuple[Item, ...], right: tuple[Item, ...]) -> bool:
    percents = any(item.percent for item in (*left, *right))
    for shares in (True, False) if percents else (True,):
        target = evaluate(right, shares=shares)
        for flat in (False, True):
            value = evaluate(left, shares=shares, flat=flat)
            if value is None or target is None:
                return True  # a part that is not an expression on its own proves nothing
            targets = {target, evaluate(right, shares=False)} if percents else {target}
            if value in targets or any(_close(left, right, value, t, shares) for t in targets if t is not None):
                return True
    return False


def _close(left: tuple[Item, ...], right: tuple[Item, ...], value: Exact, target: Exact, shares: bool) -> bool:
    """Whether the sides are one number, rounded or cut as written, or told in hundreds, thousands or millions."""
    slack = _operand_slack(left, shares) + _operand_slack(right, shares)
    numbers = [item for item in right if item.kind == "number"]
    unit: Exact = 0
    if len(numbers) == 1 and numbers[0].decimals >= 0:
        unit = Fraction(1, 10 ** numbers[0].decimals * (100 if numbers[0].percent and shares else 1))
    for factor in (1, 100, 1000, 10**6):  # "5 thousand dollars: 5 * 3 = $15,000"
        scaled = value * factor
        gap = _distance(scaled, target)
        if gap <= slack:
            return True
        if unit and Fraction(scaled, unit).denominator != 1:  # cannot be written with so few decimals
            cut = gap < unit and (unit == 1 or target * target < scaled * scaled)  # whole things are rounded up, too
            if cut or gap <= unit / 2 + slack:
                return True
    return False


def _distance(a: Exact, b: Exact) -> Exact:
    return a - b if a > b else b - a


def _operand_slack(side: tuple[Item, ...], shares: bool) -> Exact:
    """How far a side may be off because its own numbers are rounded."""
    slack: Exact = 0
    still = evaluate(side, shares=shares) if len(side) > 1 and any(map(_looks_rounded, side)) else None
    for at, item in enumerate(side if still is not None else ()):
        if _looks_rounded(item):
            nudged = msgspec.structs.replace(item, value=item.value + Fraction(1, 10**item.decimals))
            moved = evaluate((*side[:at], nudged, *side[at + 1 :]), shares=shares)
            if moved is not None and still is not None:
                slack += _distance(moved, still)
    return slack


def _looks_rounded(item: Item) -> bool:
    """Whether a number looks like thirds, sixths or sevenths cut or rounded: 0.33, 16.67, 0.143; with four decimals
    or more any does, such as the 1.6289 of "1000 * 1.6289 = 1628.89"."""
    if item.kind != "number" or item.decimals < 2:
        return False
    if item.decimals >= 4:
        return True
    unit = Fraction(1, 10**item.decimals)
    denominators = (3, 6, 7) if item.decimals == 2 else (3, 6, 7, 9, 11, 12, 13)
    return any(0 < abs(item.value - Fraction(round(item.value * q), q)) < unit for q in denominators)


def _uncertain(claim: Claim) -> bool:
    """Whether something but a slip may explain why the sides differ."""
    left = [item for item in claim.left if item.kind in ("number", ")")]
    right = [item for item in claim.right if item.kind in ("number", ")")]
    words = [singular(word) for item in (*left, *right) for word in item.words[:2]]
    if claim.open or any(len(w) == 1 and w not in _LETTERS for w in words) or _is_prose(claim):
        return True  # algebra
    scales = _SCALES.intersection(singular(word) for item in left for word in item.words)
    if scales or (_SCALES - _MANY).intersection(words) or any(item.words[:1] == ("of",) for item in left):
        return True
    if _UNREAD.intersection(singular(item.words[0]) for item in (*left, *right) if item.words):
        return True
    if _powers_unclear(claim.left) or _powers_unclear(claim.right):
        return True
    if _DAY_PARTS.intersection(word for item in right for word in item.words) and _goes_round(claim):
        return True
    if _divides_twice(claim.left) or _divides_twice(claim.right):
        return True  # 25 / 1/3
    units = {KNOWN.get(w) or w for w in words} | {KNOWN[i.currency] for i in (*left, *right) if i.currency}
    if any(len(units & dimension) > 1 for dimension in _DIMENSIONS) and _may_convert(claim):
        return True
    first, last = claim.left[0], claim.left[-1]
    share = len(claim.left) == 3 and claim.left[1].sign == "/" and not first.words and first.value < last.value
    if share and last.words and right and right[0].words and singular(last.words[-1]) != singular(right[0].words[0]):
        return True  # "1/2 a cup = 4 ounces"
    percents = [item.percent for item in left if item.kind == "number"]
    if any(percents) and not all(percents) and any(item.sign in ("+", "-") for item in claim.left):
        return True
    return bool(claim.before) and _changes_meaning(claim)


def _is_prose(claim: Claim) -> bool:
    """ "Dividing by 11/20 we get X = 1200"; "3 bags / 15 minutes = 8 bags / Y"."""
    said, before_equals = [word for item in claim.left for word in item.words], claim.left[-1].words
    after = claim.right[-1].words
    per = next((b for a, b in pairwise(after) if a == "/"), "")
    return bool(_VERBS.intersection(said)) or any(len(w) == 1 and w not in _LETTERS for w in (*before_equals, per))


def _powers_unclear(side: tuple[Item, ...]) -> bool:
    """-3^2 may be 9 or -9, and 2^3^2 may be 64 or 512."""
    signs = [item.sign for item in side]
    chained = any(a == "^" == b for a, b in zip(signs, signs[2:], strict=False))
    negated = any(
        sign == "-" and signs[at + 2 : at + 3] == ["^"] and (at == 0 or side[at - 1].kind in ("operator", "("))
        for at, sign in enumerate(signs)
    )
    return chained or negated


def _goes_round(claim: Claim) -> bool:
    """Whether the sides are one hour on a clock of twelve."""
    left, right = evaluate(claim.left), evaluate(claim.right)
    return left is not None and right is not None and (left - right) % 12 == 0


def _divides_twice(side: tuple[Item, ...]) -> bool:
    count = depth = 0
    for item in side:
        depth += (item.kind == "(") - (item.kind == ")")
        if depth == 0 and item.kind == "operator":
            count = count + 1 if item.sign == "/" else 0 if item.sign in ("+", "-") else count
            if count > 1:
                return True
    return False


def _may_convert(claim: Claim) -> bool:
    """Units of one dimension are mixed: in a sum anything may be meant, in a product a conversion."""
    if any(item.sign in ("+", "-") for item in claim.left):
        return True
    left, right = evaluate(claim.left), evaluate(claim.right)
    return not left or not right or Fraction(left, right) in _FACTORS or Fraction(right, left) in _FACTORS


def _changes_meaning(claim: Claim) -> bool:
    last = claim.before[-1]
    cut = len(claim.before) == 2 and claim.before[0].kind == "number" and claim.before[0].end == last.start
    if last.sign == "," and cut:
        return True  # "14, 400 / 80"
    if last.sign != "words":
        return False
    words = [singular(word) for word in last.words]
    if words[-1] in ("from", "between", "during") and [item.sign for item in claim.left] == ["", "-", ""]:
        return True  # "from 2010-2020 = 11 years"
    while words and words[-1] in ("the", "a", "an", "her", "his", "their"):
        if words[-2:-1] == ["to"]:
            return True  # "adds 20 to the 29 + 24"
        words.pop()
    if words[-1:] == ["and"] and claim.left[1].sign == "/" and claim.left[0].value < claim.left[2].value:
        return True  # "12 x 1 and 1/4 = 15"
    if not words or (words[-1] in ("of", "by") and len(words) == 1):
        return False
    if words[-1] in ("of", "by"):
        return words[-2] in (_PARTS if words[-1] == "of" else _BY)
    return words[-1] in _CHANGES or words[-1] in _MATHS or (len(words[-1]) == 1 and words[-1] not in ("a", "i"))
