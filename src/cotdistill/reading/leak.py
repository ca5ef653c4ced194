"""Leak: words by which a text lets on that its author knew the gold answer.

    speaks_of_gold("The answer key says 36.")  ->  "answer key"
    tells("As given, the answer is 36.")       ->  "As given"

A text that speaks of the answer it was shown, begins with it or gives it without reasons teaches only to believe.
"""

import re

FEWEST_WORDS = 5
"""A reasoning of fewer words before the final answer gives none."""

_LEAKS = re.compile(
    r"\b(?:answer|solution) key\b|\bground[- ]truth\b|\baccording to the answer\b"
    r"|\bthe (?:given|provided|expected|reference|gold|golden|official|target) (?:final |correct )?answer\b"
    r"(?! (?:choice|option)s?)"
    r"|\banswer (?:is|was) (?:already )?(?:given|provided) (?:as|to (?:me|us)|in the prompt)\b",
    re.IGNORECASE,
)

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


def speaks_of_gold(text: str, question: str) -> str | None:
    """The words by which any text speaks of a gold answer, None if it does not. A question may be about an answer
    key."""
    return _first_beyond(question, _LEAKS, text)


def tells(text: str, question: str = "") -> str | None:
    """The words by which a text written with a hint lets on that the answer was shown, None if it does not. What the
    question says itself may be said again."""
    if told := _first_beyond(question, _TELLS, text):
        return told
    if first := _ANSWER_FIRST.match(text):
        return first[0].strip()
    ends = [found.start() for found in _FINAL.finditer(text)]
    reasons = text[: ends[-1]] if ends else text
    return "an answer without reasons" if len(reasons.split()) < FEWEST_WORDS else None


def _first_beyond(question: str, pattern: re.Pattern[str], text: str) -> str | None:
    """The first match whose words the question does not say itself."""
    said = question.lower()
    return next((found[0] for found in pattern.finditer(text) if found[0].lower() not in said), None)
