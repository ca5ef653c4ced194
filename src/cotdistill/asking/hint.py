"""Hint: the right answer, shown to a teacher that could not find it, and traces that let on that it was shown.

    with_hint(messages, "36")[-1].content  ->  "What is 15% of 240?\\n\\n(The right answer is 36. Work out ...)"
    tells("As given, the answer is 36.")   ->  "As given"

Rationalisation, as in STaR (Zelikman et al. 2022, arXiv:2203.14465). The hint is in the teacher's prompt alone: the
example that a student learns is made of the question as it was asked and of the reasoning. A text that speaks of
the hint, begins with the answer or gives it without reasons teaches only to believe, and so counts as a leak.
"""

import re
from collections.abc import Sequence

import msgspec

from cotdistill.engines import Message

HINT = (
    "(The right answer is {gold}. Work out step by step how to get there from the question alone. "
    "Write as if you had not been told it, and do not mention this note.)"
)
FEWEST_WORDS = 5
"""A reasoning of fewer words before the final answer gives none."""

_THE_ANSWER = r"the (?:right |correct |final |given |known |true |expected )*answer"
_TELLS = re.compile(
    r"\bas (?:is |was |already )*(?:given|stated|told|noted|mentioned|provided|known|hinted|indicated)\b"
    rf"|\b(?:given|know|knowing|known|told|since|because) (?:already )?(?:that )?{_THE_ANSWER}\b"
    rf"|{_THE_ANSWER} (?:is|was|has been) (?:already )?(?:given|known|told|provided|stated)\b"
    rf"|\b(?:to|must|should|does|do|not|will) (?:get|reach|match|obtain|arrive at|agree with) {_THE_ANSWER}\b"
    rf"|\b(?:matches|matching|agrees with|consistent with|confirms) {_THE_ANSWER}\b"
    r"|\b(?:the|your|a) hint\b|\bthis note\b|\byou (?:said|told|gave|mentioned)\b",
    re.IGNORECASE,
)
_ANSWER_FIRST = re.compile(rf"\W*(?:so,? )?{_THE_ANSWER} (?:is|must be|should be|=)|\W*answer:", re.IGNORECASE)
_FINAL = re.compile(r"(?:\bfinal )?\banswer\b|\\boxed|####", re.IGNORECASE)


def with_hint(messages: Sequence[Message], gold: str) -> tuple[Message, ...]:
    """The prompt with the right answer below its question."""
    *before, last = messages
    return (*before, msgspec.structs.replace(last, content=f"{last.content}\n\n{HINT.format(gold=gold)}"))


def tells(text: str, question: str = "") -> str | None:
    """The words by which a text lets on that its author knew the answer, None if it does not. What the question says
    itself may be said again."""
    for found in _TELLS.finditer(text):
        if found[0].lower() not in question.lower():
            return found[0]
    if first := _ANSWER_FIRST.match(text):
        return first[0].strip()
    ends = [found.start() for found in _FINAL.finditer(text)]
    reasons = text[: ends[-1]] if ends else text
    return "an answer without reasons" if len(reasons.split()) < FEWEST_WORDS else None
