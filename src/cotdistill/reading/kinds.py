"""Kinds of answers, and how the text of one is read.

    number  "$9.50", "60 km/h"        choice  "(B) 40 km"          boolean  "Yes, it is."
    date    "5 March 2024"            time    "3:05 PM"            list     "[1, 2]", "{1, 2}", "x = 1, y = 2"
    text    "The word is 'yajo'."

Reading gives a status and a value: a Quantity, an upper-case letter, a bool, an ISO string, a tuple (a
frozenset where order does not count) or a normalised string. Nothing is evaluated.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TypeAlias

from cotdistill.reading.doubt import denied, moved
from cotdistill.reading.moment import dates_in, is_date, is_time, times_in
from cotdistill.reading.plain import plain
from cotdistill.reading.quantity import Quantity, Status, read_number
from cotdistill.reading.short_text import normal_text, read_text
from cotdistill.reading.units import units_clash

Value: TypeAlias = "Quantity | str | bool | tuple[Value, ...] | frozenset[Value]"
Reading: TypeAlias = "tuple[Status, Value | None]"
KINDS = ("number", "choice", "boolean", "text", "date", "list", "time")
MAX_ANSWER = 400  # characters; longer texts are not an answer
MAX_LIST = 4000

# Programs are not answers: they are never run, and their digits are not read either.
CODE = re.compile(r"__\w|\blambda\b|\w\(\s?['\"]|\w\(\)|\(\)\.|\b(?:open|exec|eval|compile|system)\(|"
                   r"\bfor \w{1,40} in \w{1,40}\(")  # fmt: skip
_OPTION_PREFIX = re.compile(r"\(?[A-Za-z][).:]\s+")


def kind_of(gold: str, choices: Sequence[str] | None = None) -> str:
    """The kind of answer that ``gold`` is, from its form; "choice" wherever there are choices."""
    return "choice" if choices else _kind(gold[: MAX_LIST + 1])


@lru_cache(maxsize=4096)
def _kind(gold: str) -> str:
    text = plain(gold).strip()
    if re.fullmatch(r"\(?[A-J][).]?|\([A-J]\)\s.*|[A-J]\)\s.*", text):
        return "choice"
    if re.fullmatch(r"(yes|no|true|false)(?:[.!]?|[,.]\s.*)", text, re.IGNORECASE):
        return "boolean"
    if is_date(text):
        return "date"
    if is_time(text):
        return "time"
    if _BRACKETED.fullmatch(text):
        return "list"
    status, _ = read_number(text)
    if status in ("found", "too_complex") and (status == "too_complex" or LEADS_WITH_NUMBER.match(text)):
        return "number"
    return "list" if _separated(text) else "text"


_BRACKETED = re.compile(r"[\[({](?=.*,|\s*[\])}]$).*[\])}]|\[.*\]|\{.*\}", re.DOTALL)
LEADS_WITH_NUMBER = re.compile(
    r"(?:[a-z]\w{0,2}\s?=\s?|about |approximately |exactly |roughly |~|≈)?[-+]?\s?[$€£¥₹]?\s?-?\.?[0-9]|"
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w{3,5}teen|\w{3,5}ty)(?!\w)",
    re.IGNORECASE,
)


def _separated(text: str) -> bool:
    if "," in text or ";" in text:
        return True
    parts = re.split(r"\s(?:and|or)\s", text)
    return len(parts) > 1 and all(LEADS_WITH_NUMBER.match(part) for part in parts)


def read(text: str, kind: str, choices: Sequence[str] | None = None) -> "Reading":
    """What ``text``, an answer on its own, says when it is taken for an answer of ``kind``."""
    if kind not in KINDS:
        raise ValueError(f"unknown answer kind {kind!r}; known are {', '.join(KINDS)}")
    if not text or text.isspace():
        return "no_answer", None
    if len(text) > (MAX_LIST if kind == "list" else MAX_ANSWER):
        return "too_complex", None
    if CODE.search(text):
        return "no_answer", None
    if kind == "number":
        return read_number(text)
    text = plain(text).strip()
    if len(text) > (MAX_LIST if kind == "list" else MAX_ANSWER):
        return "too_complex", None  # characters that stand for many
    if kind == "choice":
        return _read_choice(text, choices)
    if kind == "boolean":
        return _read_boolean(text)
    if kind == "list":
        return _read_list(text)
    if kind == "text":
        return read_text(text)
    moments = dates_in(text) if kind == "date" else times_in(text)
    if any(moved(text, start, end) for _, start, end in moments):
        return "ambiguous", None
    return _one_of(text, moments)


def _one_of(text: str, found: list[tuple[str, int, int]]) -> "Reading":
    """The one value among those found, unless the text denies one."""
    if any(denied(text, start, end) for _, start, end in found):
        return "ambiguous", None
    return _one({value for value, _, _ in found})


def _one(values: Collection[str | bool]) -> "Reading":
    for value in values if len(values) == 1 else ():
        return "found", value
    return ("ambiguous" if values else "no_answer"), None


# --- yes and no

BOOLEAN = re.compile(r"(?<![\w'-])(yes|true|false|no(?=\s{0,3}(?:[.,;:!*\"')\]]|$)))(?![\w-])", re.IGNORECASE)
_BOOLEAN_FIRST = re.compile(r"[\W_]{0,5}(?:(yes|true|false)(?![\w-])|"
                            r"(no)(?=[\W_]{0,5}$|[,.;:!*]|\s(?:it|the|he|she|they|this|that|we)\s))",
                            re.IGNORECASE)  # fmt: skip
_OR = re.compile(r"\s?(?:or|and|/)\s?(?:yes|no|true|false)", re.IGNORECASE)


def _read_boolean(text: str) -> "Reading":
    if first := _BOOLEAN_FIRST.match(text):
        if _OR.match(text, first.end()) or (first[1] and denied(text, first.start(1), first.end(1))):
            return "ambiguous", None
        return "found", (first[1] or first[2]).lower() in ("yes", "true")
    matches = list(BOOLEAN.finditer(text))
    if any(boolean_denied(text, *m.span()) for m in matches):
        return "ambiguous", None
    return _one({m[1].lower() in ("yes", "true") for m in matches})


def boolean_denied(text: str, start: int, end: int) -> bool:
    """Whether the yes or no at ``text[start:end]`` is denied: "not true", but not "it is not heads up, no"."""
    comma = text.rfind(",", max(0, start - 200), start) + 1
    return denied(text[comma : end + 200], start - comma, end - comma)


# --- one of several choices

_LETTER = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:](?=\s|$)|$)")
LETTERS = re.compile(r"[(\[]([A-Za-z])[)\]]|(?<![\w'’])([A-Z])\)|"
                     r"(?<![\w'’])(?:option|choice|answer|letter) ([A-Za-z])(?![\w'])|"
                     r"(?<![\w'’.])([B-HJ-Z]|A(?=\s?(?:,|/|or\s|and\s)\s?\(?[B-Z](?!\w)))(?![\w'’]|\.\w)",
                     re.IGNORECASE)  # fmt: skip


def letters_in(text: str, count: int) -> list[tuple[str, int, int]]:
    """Choice letters named in plain text, of the first ``count`` of the alphabet: (letter, start, end)."""
    found = []
    for match in LETTERS.finditer(text):
        letter = next(g for g in match.groups() if g)
        if match[4] and letter.islower():
            continue
        if ord(letter.upper()) - ord("A") < count:
            found.append((letter.upper(), *match.span()))
    return found


def _read_choice(text: str, choices: Sequence[str] | None) -> "Reading":
    text = re.sub(r"^(?:option|choice|answer|letter)\s", "", text.strip(" *_`\"'<>"), flags=re.IGNORECASE)
    count = min(len(choices), 26) if choices else 10
    same = {chr(65 + i) for i, option in enumerate((choices or ())[:26]) if _same_option(text, option)}
    if not same and (first := _LETTER.match(text)) and ord(first[1].upper()) - 65 < count:
        rest = text[first.end() :].strip()
        named = {chr(65 + i) for i, option in enumerate((choices or ())[:26]) if rest and _same_option(rest, option)}
        others = {letter for letter, _, _ in letters_in(rest, count)} if len(rest) < 12 else set()
        if denied(text, *first.span()):
            return "ambiguous", None
        agreed = (named or {first[1].upper()}) & ({first[1].upper()} if not others - {first[1].upper()} else set())
        return _one(agreed) if agreed else ("ambiguous", None)
    if same:
        prefix = _OPTION_PREFIX.match(text)  # "a) 40 km/h" where that is option B
        other = prefix and prefix[0].strip("(). :").upper() not in same and not _written_in(text, choices or ())
        return ("ambiguous", None) if other else _one(same)
    if choices and (inside := _options_inside(text, choices)):
        places = [text.lower().find(_bare_option(choices[ord(letter) - 65]).lower()) for letter in inside]
        if any(denied(text, place if place >= 0 else len(text), len(text)) for place in places):
            return "ambiguous", None
        return _one(inside)
    return _one_of(text, letters_in(text, count))


def _written_in(text: str, choices: Sequence[str]) -> bool:
    return text.casefold() in (option.strip().casefold() for option in choices)


def _bare_option(option: str) -> str:
    return _OPTION_PREFIX.sub("", option.strip(), count=1)


def _same_option(text: str, option: str) -> bool:
    option = _bare_option(option)
    wanted = normal_text(option)
    if wanted and normal_text(text) == wanted:
        return True
    if not LEADS_WITH_NUMBER.match(text) or not LEADS_WITH_NUMBER.match(plain(option)):
        return False
    (_, a), (_, b) = read_number(text), read_number(option)
    return a is not None and b is not None and same_value(a, b)


def _options_inside(text: str, choices: Sequence[str]) -> set[str]:
    padded = f" {normal_text(text)} "
    wanted = {chr(65 + i): normal_text(_bare_option(c)) for i, c in enumerate(choices[:26])}
    inside = {letter: option for letter, option in wanted.items() if option and f" {option} " in padded}
    return {a for a, x in inside.items() if not any(x != y and f" {x} " in f" {y} " for y in inside.values())}


# --- lists and sets

_BRACKETS = re.compile(r"([\[({])([^\[\](){}]*)([\])}])")
_SYMBOLIC = re.compile(r"\\(?:sqrt|frac|pi|infty|cup|cap|pm|mp|log|ln|sin|cos|tan|theta|alpha|beta|begin|mathbb)"
                       r"(?![a-z])|[√π∞]|(?:[\[(]|,\s?)[-+]?(?:inf|infinity|oo)\s?[,)\]]")  # fmt: skip
_NAMED = re.compile(r"\s*([A-Za-z]\w{0,9})\s?=\s?(.+)", re.DOTALL)
_LIST_LEAD = re.compile(r"[^,;:\[]{0,120}:\s+|(?:the|my|this|so)\s[^,;]{0,100}?\s(?:is|are)\s", re.IGNORECASE)


def _read_list(text: str) -> "Reading":
    brackets = _BRACKETS.search(text)
    if brackets and denied(text, *brackets.span()):
        return "ambiguous", None
    if _SYMBOLIC.search(text) or (brackets and brackets[1] + brackets[3] in ("(]", "[)")):
        return "too_complex", None  # roots, matrices and half-open intervals are not lists of numbers
    inner = brackets[2] if brackets else _LIST_LEAD.sub("", text, count=1).strip().rstrip(".")
    parts = _split(inner)
    if not parts:
        return ("found", ()) if brackets else ("no_answer", None)
    named = [_NAMED.fullmatch(part) for part in parts]
    if all(named):
        names = {m[1] for m in named if m}
        pairs = [(m[1], _element(m[2])) for m in named if m]
        return "found", frozenset(value for _, value in pairs) if len(names) == 1 < len(pairs) else frozenset(pairs)
    values = [_element(part) for part in parts]
    if not all(values):
        return "no_answer", None
    return "found", frozenset(values) if brackets and brackets[1] == "{" else tuple(values)


def _split(text: str) -> list[str]:
    if ";" in text:
        parts = text.split(";")
    elif "," in text:
        parts = re.split(r",\s+", text) if re.search(r",\s", text) else text.split(",")
    else:
        parts = re.split(r"\s(?:and|or)\s", text)
        if len(parts) == 1 and re.fullmatch(r"[-+.0-9/ ]+", text):
            parts = text.split()
    last = re.split(r"^(?:and|or)\s|\s(?:and|or)\s", parts[-1]) if len(parts) > 1 else parts[-1:]
    return [part.strip() for part in (*parts[:-1], *last) if part.strip()]


def _element(text: str) -> "Value":
    text = text.strip(" '\"`*")
    if LEADS_WITH_NUMBER.match(text):
        status, value = read_number(text)
        if status == "found" and value is not None:
            return value
    return normal_text(text)


# --- comparing


def same_value(a: "Value", b: "Value", tolerance: float = 0) -> bool:
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


def _pairs_off(a: "list[Value]", b: "list[Value]", tolerance: float) -> bool:
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
