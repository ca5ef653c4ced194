"""The lenient reading: what a text that names no answer most likely answers.

    "She has 12 + 3 = 15 apples left."  ->  ("15 apples", "last_number")

Named for what it took: the last number, choice, yes or no, date, time or list, or the quoted, bold or last word.
"""

import re
from collections.abc import Sequence

from cotdistill import kinds
from cotdistill.kinds import MAX_ANSWER
from cotdistill.moment import dates_in, times_in
from cotdistill.quantity import NUMBER, quantity_at


def last_answer(text: str, kind: str, choices: Sequence[str] | None) -> tuple[str, str]:
    """The last thing in plain text that could be an answer of ``kind``, and the name of that reading."""
    if kind == "number":
        return _last_number(text), "last_number"
    if kind == "choice":
        named = kinds.letters_in(text, len(choices) if choices else 10)
        return (named[-1][0] if named else _last_line(text)), "last_choice"
    if kind == "boolean":
        return next((m[0] for m in reversed(list(kinds.BOOLEAN.finditer(text)))), ""), "last_yes_no"
    if kind in ("date", "time"):
        moments = dates_in(text) if kind == "date" else times_in(text)
        return (text[moments[-1][1] : moments[-1][2]] if moments else ""), f"last_{kind}"
    if kind == "list":
        brackets = re.findall(r"[\[{][^\[\]{}]{1,2000}[\]}]", text)
        return (brackets[-1] if brackets else _last_line(text).rpartition(": ")[2]), "last_list"
    for spans, source in ((kinds.quoted_in(text), "quoted"), (kinds.bold_in(text), "bold")):
        if spans:
            return spans[-1], source
    words = re.findall(r"[\w'-]{1,200}", text)
    return (words[-1] if words else ""), "last_word"


def _last_number(text: str) -> str:
    last = None
    for size in (300, len(text)):
        tail = text[-size:]
        matches = list(NUMBER.finditer(tail, tail.find(" ") + 1 if len(tail) < len(text) else 0))
        if matches:
            text, last = tail, matches[-1]
            break
    if last is None:
        return ""
    start = last.start() if last["sign"] != "+" else last.start() + 1
    quantity, end = quantity_at(text, last)
    if quantity is not None and last["sign"] == "-" and not last["inner"] and quantity.number > 0:
        start += 1  # a dash between two numbers
    return text[start:end].strip() if end - start <= MAX_ANSWER else ""


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()
