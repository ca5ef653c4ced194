"""Quantity: a number as people write it, with its unit and its percent sign kept apart.

    "$1,234.50" -> Quantity(2469/2, "dollar")     "50%"            -> Quantity(50, percent=True)
    "x = 3/4"   -> Quantity(3/4)                  "2 hours 30 min" -> Quantity(5/2, "hour")

Exact: numbers are Fractions, never floats, and nothing is evaluated. An expression (``2^10``, ``3 + 4``,
``sqrt(2)``, ``x > 3``) or a number of more than 400 digits is ``too_complex``; two different numbers, and one whose
neighbours make it another ("minus 3", "five hundred", "not 5": see ``doubt``), are ``ambiguous``. Not covered: Roman
numerals, number words above ninety-nine, decimal commas.
"""

import re
from fractions import Fraction
from typing import Literal

import msgspec

from cotdistill.reading.doubt import altered, denied, unequal
from cotdistill.reading.plain import plain
from cotdistill.reading.units import PARTS, unit_after
from cotdistill.reading.unspaced import UNSPACED, unsure_unspaced

Status = Literal["found", "no_answer", "ambiguous", "too_complex"]
MAX_DIGITS = 400


class Quantity(msgspec.Struct, frozen=True):
    """``number`` is what is written before ``%``: 50% is ``Quantity(50, percent=True)``, not one half."""

    number: Fraction
    unit: str = ""
    percent: bool = False


# One number: sign, currency, then a mixed number, fraction or decimal with its exponent. Possessive
# quantifiers and the look-behind keep a long row of digits linear.
NUMBER = re.compile(
    rf"(?<![^\W{UNSPACED}])(?<![.^])" + r"""(?P<sign>[-+])?(?P<gap>[ ]?)(?P<currency>[$€£¥₹])?[ ]?(?P<inner>-)?
    (?: (?P<whole>[0-9]{1,3}(?:,[0-9]{3}){1,140}+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2}){1,6},[0-9]{3}(?![0-9])|[0-9]++)
        (?: (?:[ ]{1,2}|[ ]and[ ])(?P<over>[0-9]{1,9})[ ]?/[ ]?(?P<under>[0-9]{1,9})(?![0-9]|/[0-9]|,[0-9])
          | [ ]?/[ ]?(?P<den>[0-9]++(?:\.[0-9]++)?)(?!/[0-9])
          | (?P<frac>\.[0-9]++)? )
      | (?P<bare>\.[0-9]++) )
    (?: [eE](?P<e>[-+]?[0-9]{1,5})(?![0-9.]) | [ ]?[*x][ ]?10\^[({]?(?P<ten>[-+]?[0-9]{1,5})[)}]?(?![0-9.]) )?
    (?![0-9]|[._][0-9])""",
    re.VERBOSE,
)
LEADS_WITH_NUMBER = re.compile(
    r"(?:[a-z]\w{0,2}\s?=\s?|about |approximately |exactly |roughly |~|≈)?[-+]?\s?[$€£¥₹]?\s?-?\.?[0-9]|"
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w{3,5}teen|\w{3,5}ty)(?!\w)",
    re.IGNORECASE,
)
_SIMPLE = re.compile(r"\s*(-?[0-9]{1,15}(?:\.[0-9]{1,6})?)\.?\s*")  # most answers: skip the long way
_PERCENT = re.compile(r"[ ]?(%|percent(?:age)?(?![a-z])|per cent(?![a-z]))", re.IGNORECASE)
_SCALE = re.compile(r"[ -]?(hundred|thousand|million|billion|trillion)(?!-?[a-z])|k(?![a-z])", re.IGNORECASE)
_VARIABLE = re.compile(r"(?![hmgslk])[a-z]")  # "2x", but "2h" is a unit
_ORDINAL = re.compile(r"(?:st|nd|rd|th)(?![a-z])", re.IGNORECASE)
_POWERS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPACED = re.compile(r"[^0-9]*(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?(?![0-9,])[^0-9]*")

# Signs of algebra in a text whose quantities have been replaced by "#".
_EXPRESSION = re.compile(
    r"\\[a-zA-Z]|√|π|∞|[<>≤≥≠]|!=|(?<![a-z])(?:sqrt|pi|log|ln|sin|cos|tan)(?![a-z])|#\s?(?:\^|\*\*|[+](?!\+))"
    r"|#\s?[*/]\s?[\w(]|[\w)]\s?[*/^]\s?#|[+*/^-]\s?[a-z](?![a-z])|(?<![a-z])[a-z](?!-[a-z]{2})\s?[+*/^-]|[+*/^]\s?\(|\)\s?[+*/^]|#\s?\(#",
    re.IGNORECASE,
)
_FACTORIAL = re.compile(r"(?<=[0-9)])\s?!(?!=)")
_POWER_OF_TEN = re.compile(r"(?<![\w.^*/])(?<![*x/]\s)(?<!\^\()10\^[({]?([-+]?[0-9]{1,3})[)}]?(?!\s?[0-9.^*!])")
UNREAD_DIGIT = re.compile(rf"(?<![^\W{UNSPACED}])(?<!\^)[0-9]")
REASON = re.compile(r",?\s\(?(?:because|since)\s", re.IGNORECASE)  # "36 (since 12 * 3 = 36)"
_SOLVED = re.compile(r"\s?[a-z]\s?=\s?([^=]+)", re.IGNORECASE)  # "2x + 4 = 12, so x = 4"
_CONCLUSION = re.compile(r"(?:^|[\s,;])(?:so|thus|hence|therefore)[\s,:]", re.IGNORECASE)
_CLAUSE = re.compile(r",\s|;|\sand\s|\sor\s", re.IGNORECASE)
_EQUALS = re.compile(r"(?<![<>!=:])=(?![=>])|≈")
_ALGEBRA = re.compile(r"[0-9](?![hmgslk])[a-z](?![a-z])|(?<![a-z])[a-z]\s?[\^*/+]|[+*/^-]\s?[a-z](?![a-z])", re.I)
_BOLD = re.compile(r"\*\*(?![0-9(])|(?<![0-9)])\*\*")  # emphasis, not a power
_ARROW = re.compile(r"[-=]+>|→|⇒")
_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {w: i for i, w in enumerate(_ONES)} | {w: 10 * i for i, w in enumerate(_TENS, 2)}
_IN_WORDS = re.compile(rf"(?<![a-z])({'|'.join(sorted(_WORDS, key=len, reverse=True))})"
                       rf"(?:[- ]({'|'.join(_ONES[1:10])}))?(?![a-z])", re.IGNORECASE)  # fmt: skip


def read_number(text: str) -> tuple[Status, Quantity | None]:
    """The one number that ``text`` states. Of ``a = b`` the right side is read, of "..., so 4" the end."""
    if simple := _SIMPLE.fullmatch(text):
        return "found", Quantity(Fraction(simple[1]) if "." in simple[1] else Fraction(int(simple[1])))
    text = _ARROW.sub(" ", plain(text)).strip()
    if "**" in text:
        text = _BOLD.sub("", text)
    text = REASON.split(text, maxsplit=1)[0]
    if len(text) < 200 and _SPACED.fullmatch(text):
        text = re.sub(r"(?<=[0-9]) (?=[0-9]{3})", "", text)
    if "10^" in text:
        text = _POWER_OF_TEN.sub(r"1e\1", text)
    if equals := _EQUALS.search(text):
        if _ALGEBRA.search(text[: equals.start()]):
            solved = _SOLVED.fullmatch(_CONCLUSION.split(text)[-1])
            return _one_number(solved[1]) if solved else ("too_complex", None)
        if unequal(text, equals.start()):
            return "ambiguous", None
    status, value = _one_number(_right_sides(text) or text)
    if status == "no_answer":
        status, value = _one_number(text)
    if status == "ambiguous" and (end := _CONCLUSION.split(text)[-1]) != text:
        return _one_number(end)
    return status, value


def _right_sides(text: str) -> str | None:
    """What stands after the last ``=`` of every clause that has one; None without any."""
    if not _EQUALS.search(text):
        return None
    sides = [_EQUALS.split(clause)[-1] for clause in _CLAUSE.split(text) if _EQUALS.search(clause)]
    return " ; ".join(sides)


def _one_number(text: str) -> tuple[Status, Quantity | None]:
    found: list[tuple[Quantity, int, int]] = []
    doubtful = False
    for match in NUMBER.finditer(text):
        quantity, end = quantity_at(text, match)
        if quantity is None or _VARIABLE.fullmatch(text, match.end(), end) or _FACTORIAL.match(text, end):
            return "too_complex", None
        if _joins(text, match):
            return "too_complex", None
        doubtful = doubtful or in_doubt(text, match, end)
        found.append((quantity, match.start(), end))
    ends = [0, *(end for _, _, end in found)]
    starts = [*(start for _, start, _ in found), len(text)]
    gaps = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    if _EXPRESSION.search("#".join(gaps)) or any(map(UNREAD_DIGIT.search, gaps)):
        return "too_complex", None
    if not found:
        return _number_word(text)
    between = {gap.strip(" ()") for gap in gaps[1:-1]}
    if between & {"+", "*", "x", "X", "/"} or any(text[start] == "+" for start in starts[1:-1]):
        return "too_complex", None
    if doubtful:
        return "ambiguous", None
    whole = _add_parts(found, text)
    if whole is not None:
        return "found", whole
    if between & {"-", "", ":", ","} or "±" in text or len({(q.number, q.percent) for q, _, _ in found}) > 1:
        return "ambiguous", None
    return "found", max((q for q, _, _ in found), key=lambda q: bool(q.unit))


def quantity_at(text: str, match: re.Match[str]) -> tuple[Quantity | None, int]:
    """The quantity of one ``NUMBER`` match in plain text, with the unit behind it, and where it ends.

    None if it has too many digits or divides by zero."""
    number = _value(match)
    end = match.end()
    if number is None:
        return None, end
    before = text[: match.start()].rstrip()[-1:] if match["sign"] else ""
    if match["inner"] or (match["sign"] == "-" and _is_sign(match, before)):
        number = -number
    if percent := _PERCENT.match(text, end):
        return Quantity(number, "", True), percent.end()
    if ordinal := _ORDINAL.match(text, end):
        return Quantity(number), ordinal.end()
    if scale := _SCALE.match(text, end):
        number *= _POWERS.get((scale[1] or "").lower(), 1000)
        end = scale.end()
    unit, end = unit_after(text, end, match["currency"] or "")
    return Quantity(number, unit), end


def in_doubt(text: str, match: re.Match[str], end: int) -> bool:
    """Whether what stands beside a number that ends, with its unit, at ``end`` makes it another number."""
    start = match.start()
    if match["sign"] == "-" and not _is_sign(match, text[:start].rstrip()[-1:]):
        start += 1
    start += text[start] == " "
    if _joins(text, match):
        return True
    scale = _SCALE.match(text, match.end())
    written = scale.end() if scale else match.end()
    if denied(text, start, end) or unsure_unspaced(text, start, written):
        return True
    return altered(text, start, written, end, money=bool(match["currency"]))


def _joins(text: str, match: re.Match[str]) -> bool:
    """Whether the sign of a number joins it to what stands before it: x-5, tax + 5, 3 + 5."""
    before = text[: match.start()] if match["sign"] else ""
    if match["sign"] == "+" and (match["gap"] or before.rstrip()[-1:].isdigit()):
        return before.rstrip()[-1:].isalnum()
    return before[-1:].isalpha() or before[-1:] == ")"


def _is_sign(match: re.Match[str], before: str) -> bool:
    if before.isdigit() or before in (")", "%"):
        return False  # a subtraction or a range
    return not match["gap"] or before in ("", "=", ":", "(", "[", ",", "{")


def _value(match: re.Match[str]) -> Fraction | None:
    whole, frac, den = match["whole"], match["frac"] or match["bare"] or "", match["den"]
    exponent = match["e"] or match["ten"] or "0"
    digits = (whole or "").replace(",", "")
    if match["e"] and (den or match["under"]):
        return None  # 3/4e2
    if len(digits) + len(frac) + len(den or "") + abs(int(exponent)) > MAX_DIGITS:
        return None
    number = Fraction(f"{digits or '0'}{frac}")
    if den is not None:
        if not (below := Fraction(den)):
            return None
        number /= below
    elif match["under"] is not None:
        if not (under := int(match["under"])):
            return None
        number += Fraction(int(match["over"]), under)
    return number * Fraction(10) ** int(exponent)


def _add_parts(found: list[tuple[Quantity, int, int]], text: str) -> Quantity | None:
    """2 hours (and) 30 minutes, as one quantity in the larger unit."""
    if len(found) != 2:
        return None
    (large, _, end), (small, start, _) = found
    per = PARTS.get((large.unit, small.unit))
    if per is None or text[end:start].strip(" ,") not in ("", "and") or not 0 <= small.number < per:
        return None
    return Quantity(large.number + small.number / per, large.unit)


def _number_word(text: str) -> tuple[Status, Quantity | None]:
    words = list(_IN_WORDS.finditer(text))
    for word in words:
        end = unit_after(text, word.end())[1]
        if denied(text, word.start(), end) or altered(text, word.start(), word.end(), end):
            return "ambiguous", None
    values = {_WORDS[m[1].lower()] + _WORDS.get((m[2] or "").lower(), 0) for m in words}
    if len(values) != 1:
        return ("ambiguous" if values else "no_answer"), None
    percent = bool(_PERCENT.match(text, words[0].end()))
    unit = "" if percent else unit_after(text, words[0].end())[0]
    return "found", Quantity(Fraction(values.pop()), unit, percent)
