"""Short text: answers that are words, such as a name or a row of letters.

    "The word is 'Yajo'."  ->  "yajo"
"""

import re
import unicodedata

from cotdistill.reading.doubt import denied
from cotdistill.reading.plain import plain
from cotdistill.reading.quantity import Status

_QUOTED = re.compile(r'"([^"\n]{1,200})"|(?<![\w\'])\'([^\'\n]{1,200})\'(?![\w\'])|`([^`\n]{1,200})`')
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*|__([^_\n]{1,200})__")
_LEAD = re.compile(r"(?:so |thus |therefore |hence )?,?\s?(?:it (?:is|was|will be) |it's |"
                   r"(?:the|my|our)\s(?:[\w-]{1,20}\s){0,3}?"
                   r"(?:answer|result|word|string|name|letters?|concatenation|output|spelling|day|month|order|relationship|"
                   r"ratio|argument)"
                   r"(?:\s[\w-]{1,20}){0,6}?\s(?:is|are|would be|becomes)\s?:?\s)", re.IGNORECASE)  # fmt: skip
_MARKS = re.compile(r"(?<![0-9])[.,:/](?=.)|[.,:/](?![0-9])|[;!?\"`()\[\]{}*_…$\\|—<>]|"
                    r"-(?![0-9])|(?<=\w)-|(?<!\w)'|'(?!\w)")  # fmt: skip
_RATIO = re.compile(r"(?<=[0-9])\s{0,3}:\s{0,3}(?=[0-9])")
_CONCLUDES = re.compile(r"(?:(?<!\w)(?:is|are|giv(?:es?|ing)|get|forms?|makes?|spells?)|[=:])\s?[\"'`*_]{1,5}$", re.I)
_END = re.compile(r"[\"'`*_.!\s]*$")
_ARTICLES = {"a", "an", "the"}


def quoted_in(text: str) -> list[tuple[int, int]]:
    """Where something stands in quotes or backticks."""
    return [m.span(m.lastindex or 0) for m in _QUOTED.finditer(text)]


def bold_in(text: str) -> list[tuple[int, int]]:
    """Where something stands in Markdown bold."""
    return [m.span(m.lastindex or 0) for m in _BOLD.finditer(text)]


def normal_text(text: str) -> str:
    """Case, articles, punctuation and spacing removed; marks between digits stay. Idempotent."""
    text = unicodedata.normalize("NFKC", plain(text).casefold())
    words = _MARKS.sub(" ", _RATIO.sub(":", text)).replace("'", "").split()
    return " ".join([w for w in words if w not in _ARTICLES] or words)


def read_text(text: str) -> tuple[Status, str | None]:
    """What plain text says, normalised: its one quotation or bold part, or the one that a verb names at its end
    ('the last letters of "Larry Page" are "ye"'), else all of it."""
    quoted, bold = quoted_in(text), bold_in(text)
    named = [span for span in (*quoted, *bold) if _CONCLUDES.search(text[: span[0]]) and _END.match(text, span[1])]
    for spans in (named[:1], quoted, bold):
        if len(spans) == 1:
            if denied(text, *spans[0]):
                return "ambiguous", None
            text = text[slice(*spans[0])]
            break
    words = normal_text(_LEAD.sub("", text, count=1) or text)
    return ("found", words) if any(c.isalnum() for c in words) else ("no_answer", None)
