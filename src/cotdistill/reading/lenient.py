"""The lenient reading: what a text that names no answer most likely answers.

    "She has 12 + 3 = 15 apples left."  ->  ("15 apples", "last_number", False)

Named for what it took: the last number, choice, yes or no, date, time or list, or the quoted, bold or last word.
"""

import re
from collections.abc import Sequence

from cotdistill.reading import kinds
from cotdistill.reading.choice import letters_in
from cotdistill.reading.doubt import denied, moved
from cotdistill.reading.kinds import MAX_ANSWER
from cotdistill.reading.moment import dates_in, times_in
from cotdistill.reading.quantity import LEADS_WITH_NUMBER, NUMBER, UNREAD_DIGIT, in_doubt, quantity_at
from cotdistill.reading.short_text import bold_in, quoted_in

_REACH = 80
# What stands before the second of two: "(B) or (C)", "answer with yes or no". Neither is an answer.
_EITHER = {
    "choice": re.compile(r"(?<![\w'])(?:\([A-Za-z]\)|[A-HJ-Z](?![\w'])\)?)[^.;:!?,\n]{0,40}(?:\s(?:or|and)\s|/)"
                         r"(?:option\s|choice\s)?[\"'*_(\[]{0,3}$"),
    "boolean": re.compile(r"(?<!\w)(?:yes|no|true|false)[\"'*_.)\]]{0,3}(?:\s?/\s?|,?\s(?:or|and)\s|\n\s?[-*•]\s)"
                          r"[\"'*_(\[]{0,3}$", re.IGNORECASE),
}  # fmt: skip


def last_answer(text: str, kind: str, choices: Sequence[str] | None) -> tuple[str, str, bool]:
    """The last thing in plain text that could be an answer of ``kind`` ("" if there is none), the name of that
    reading, and whether what stands beside it makes it something else: "not 36", "3 * 12", "36 is wrong"."""
    if kind == "number":
        written, doubtful = _last_number(text)
        return written, "last_number", doubtful
    start, end, source = _last_span(text, kind, choices)
    doubtful = end > start and (kinds.boolean_denied if kind == "boolean" else denied)(text, start, end)
    if kind in ("date", "time"):
        doubtful = doubtful or moved(text, start, end)
    if kind in _EITHER:
        doubtful = doubtful or _EITHER[kind].search(text[max(0, start - _REACH) : start]) is not None
    return text[start:end].strip(), source, doubtful


def _last_span(text: str, kind: str, choices: Sequence[str] | None) -> tuple[int, int, str]:
    """Where the last thing that is no number stands, and the name of the reading."""
    if kind == "choice":
        named = letters_in(text, len(choices) if choices else 10)
        return *(named[-1][1:] if named else _last_line(text)), "last_choice"
    if kind == "boolean":
        said = list(kinds.BOOLEAN.finditer(text))
        return *(said[-1].span() if said else (0, 0)), "last_yes_no"
    if kind in ("date", "time"):
        moments = dates_in(text) if kind == "date" else times_in(text)
        return *(moments[-1][1:] if moments else (0, 0)), f"last_{kind}"
    if kind == "list":
        brackets = list(re.finditer(r"[\[{][^\[\]{}]{1,2000}[\]}]", text))
        if brackets:
            return *brackets[-1].span(), "last_list"
        start, end = _last_line(text)
        colon = text.rfind(": ", start, end)
        return (colon + 2 if colon >= 0 else start), end, "last_list"
    return _last_word(text)


_NAMED = re.compile(r"(?:(?:[:=]|->|→|(?<!\w)(?:get|gives?|yields?))\s{1,3}|\n\s*)([\w'-]{1,200})[.!]?\s*$", re.I)


def _last_word(text: str) -> tuple[int, int, str]:
    """The word at the end that is announced or alone on its line, else what was last quoted or bold, else the last."""
    found = [(start, end, "quoted") for start, end in quoted_in(text)]
    found += [(*span, "bold") for span in bold_in(text) if ":" not in text[span[1] - 1 : span[1] + 3]]  # no "**Note:**"
    if named := _NAMED.search(text, max(0, len(text) - 300)):
        found.append((*named.span(1), "last_word"))
    if found:
        return max(found)
    words = list(re.finditer(r"[\w'-]{1,200}", text))
    return *(words[-1].span() if words else (0, 0)), "last_word"


def _last_number(text: str) -> tuple[str, bool]:
    for size in (300, len(text)):
        tail = text.find(" ", len(text) - size) + 1 if size < len(text) else 0
        if matches := list(NUMBER.finditer(text, tail)):
            break
    else:
        return "", False
    last = matches[-1]
    sentence = max(text.rfind(end, 0, last.start()) for end in ("\n", ". ", "! ")) + 1
    if bold := _emphasised(text[sentence:], last.start() - sentence):
        return bold, False
    start = last.start() if last["sign"] != "+" else last.start() + 1
    quantity, end = quantity_at(text, last)
    if quantity is not None and last["sign"] == "-" and not last["inner"] and quantity.number > 0:
        start += 1  # a dash between two numbers
    doubtful = in_doubt(text, last, end) or UNREAD_DIGIT.search(text, end) is not None
    return (text[start:end].strip() if end - start <= MAX_ANSWER else ""), doubtful


# No "**1.**", no "**3 boxes:**" and no "**3** or 4"
_EMPHASISED = re.compile(r"\*\*([^*\n]{0,60}[^*\n\s.:)])\*\*(?!\s?(?::|(?:or|to)\s\W{0,3}[0-9]))")
# What stands before a number that is no result: "for the 16 glasses", "a 200 GB file", "within 5 days"
_BACKGROUND = re.compile(
    r"(?<!\w)(?:(?:for|(?<!total )of|(?<!resulting )in|after|before|on|over|during|within|per|every|than|those|these"
    r"|all|his|her|their|its)(?: the| a| an| her| his| their)?|the|an?)(?: first| last| next| other)? ?$"
)


def _emphasised(sentence: str, last: int) -> str:
    """The one number in bold of a sentence whose ``last`` number is no result: "$64" of "**$64** for 16 glasses"."""
    found = [match for match in _EMPHASISED.finditer(sentence) if LEADS_WITH_NUMBER.match(match[1])]
    if len(found) != 1 or found[0].end() > last or not _BACKGROUND.search(sentence[:last]):
        return ""
    start, written = found[0].start(), found[0][1]
    sentence = sentence[:start] + written + sentence[found[0].end() :]
    number = NUMBER.match(sentence, start)
    if number is None or in_doubt(sentence, number, quantity_at(sentence, number)[1]):
        return ""
    return written if kinds.read(written, "number")[0] == "found" else ""


def _last_line(text: str) -> tuple[int, int]:
    end = len(text.rstrip())
    return text.rfind("\n", 0, end) + 1, end
