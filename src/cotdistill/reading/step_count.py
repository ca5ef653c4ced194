"""Step count: how many steps of reasoning a text takes.

    step_count("42 + 32 = 74.\\n74 - 35 = 39.\\nFinal Answer: 39")                    -> 2
    step_count("Lu flips: heads -> tails.\\nKarl does not flip.\\nFinal Answer: no")  -> 2

A step is a calculation as ``steps`` reads them, counted once however often it is written out. In a text without any
it is a sentence or a line; one that only states the answer is none.
"""

import re

from cotdistill.reading.claim import claims_in

_BETWEEN = re.compile(r"(?<=[.!?])\s+|\n+")
_STATES_ANSWER = re.compile(r"\banswer\b\W*(?:is\b|:)|^\W*####|\\boxed", re.IGNORECASE)


def step_count(text: str) -> int:
    """The steps of a text, 0 for an answer alone. Pure, linear, never raises on any text."""
    calculations = {tuple((item.sign, item.value) for item in (*claim.left, *claim.right)) for claim in claims_in(text)}
    if calculations:
        return len(calculations)
    sentences = [sentence for sentence in _BETWEEN.split(text) if any(map(str.isalpha, sentence))]
    return sum(not _STATES_ANSWER.search(sentence) for sentence in sentences)
