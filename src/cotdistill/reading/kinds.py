"""Kinds of answers, and how the text of one is read.

    number  "$9.50", "60 km/h"        choice  "(B) 40 km"          boolean  "Yes, it is."
    date    "5 March 2024"            time    "3:05 PM"            list     "[1, 2]", "{1, 2}", "x = 1, y = 2"
    text    "The word is 'yajo'."

Reading gives a status and a value. Nothing is evaluated.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from cotdistill.reading.choice import read_choice
from cotdistill.reading.doubt import denied, moved
from cotdistill.reading.moment import dates_in, is_date, is_time, times_in
from cotdistill.reading.plain import plain
from cotdistill.reading.quantity import LEADS_WITH_NUMBER, REASON, read_number
from cotdistill.reading.short_text import normal_text, read_text
from cotdistill.reading.value import Reading, Value, one, one_of

KINDS = ("number", "choice", "boolean", "text", "date", "list", "time")
MAX_ANSWER = 400  # characters; longer texts are not an answer
MAX_LIST = 4000

# Programs are not answers: they are never run, and their digits are not read either.
CODE = re.compile(r"__\w|\blambda\b|\w\(\s?['\"]|\w\(\)|\(\)\.|\b(?:open|exec|eval|compile|system)\(|"
                   r"\bfor \w{1,40} in \w{1,40}\(")  # fmt: skip


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


def _separated(text: str) -> bool:
    if "," in text or ";" in text:
        return True
    parts = re.split(r"\s(?:and|or)\s", text)
    return len(parts) > 1 and all(LEADS_WITH_NUMBER.match(part) for part in parts)


def read(text: str, kind: str, choices: Sequence[str] | None = None) -> Reading:
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
        return read_choice(text, choices)
    if kind == "boolean":
        return _read_boolean(text)
    if kind == "list":
        return _read_list(text)
    if kind == "text":
        return read_text(text)
    text = REASON.split(text, maxsplit=1)[0]
    moments = dates_in(text) if kind == "date" else times_in(text)
    if any(moved(text, start, end) for _, start, end in moments):
        return "ambiguous", None
    return one_of(text, moments)


# --- yes and no

BOOLEAN = re.compile(r"(?<![\w'-])(yes|true|false|no(?=\s{0,3}(?:[.,;:!*\"')\]]|$)))(?![\w-])", re.IGNORECASE)
# "No because ...", "No - the telescope ...", "No (it is in orbit)"
_BOOLEAN_FIRST = re.compile(r"[\W_]{0,5}(?:(yes|true|false)(?![\w-])|"
                            r"(no)(?=[\W_]{0,5}$|[,.;:!*]|\s?[(—]|\s-\s"
                            r"|\s(?:because|since|as|it|the|he|she|they|this|that|we)\s))",
                            re.IGNORECASE)  # fmt: skip
_OR = re.compile(r"\s?(?:or|and|/)\s?(?:yes|no|true|false)", re.IGNORECASE)


def _read_boolean(text: str) -> Reading:
    if first := _BOOLEAN_FIRST.match(text):
        if _OR.match(text, first.end()) or (first[1] and denied(text, first.start(1), first.end(1))):
            return "ambiguous", None
        return "found", (first[1] or first[2]).lower() in ("yes", "true")
    matches = list(BOOLEAN.finditer(text))
    if any(boolean_denied(text, *m.span()) for m in matches):
        return "ambiguous", None
    return one({m[1].lower() in ("yes", "true") for m in matches})


def boolean_denied(text: str, start: int, end: int) -> bool:
    """Whether the yes or no at ``text[start:end]`` is denied: "not true", but not "it is not heads up, no"."""
    comma = text.rfind(",", max(0, start - 200), start) + 1
    return denied(text[comma : end + 200], start - comma, end - comma)


# --- lists and sets

_BRACKETS = re.compile(r"([\[({])([^\[\](){}]*)([\])}])")
_SYMBOLIC = re.compile(r"\\(?:sqrt|frac|pi|infty|cup|cap|pm|mp|log|ln|sin|cos|tan|theta|alpha|beta|begin|mathbb)"
                       r"(?![a-z])|[√π∞]|(?:[\[(]|,\s?)[-+]?(?:inf|infinity|oo)\s?[,)\]]")  # fmt: skip
_NAMED = re.compile(r"\s*([A-Za-z]\w{0,9})\s?=\s?(.+)", re.DOTALL)
_LIST_LEAD = re.compile(r"[^,;:\[]{0,120}:\s+|(?:the|my|this|so)\s[^,;]{0,100}?\s(?:is|are)\s", re.IGNORECASE)


def _read_list(text: str) -> Reading:
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


def _element(text: str) -> Value:
    text = text.strip(" '\"`*")
    if LEADS_WITH_NUMBER.match(text):
        status, value = read_number(text)
        if status == "found" and value is not None:
            return value
    return normal_text(text)
