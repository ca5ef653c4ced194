"""Hint: the right answer, shown to a teacher that could not find it.

    with_hint(messages, "36")[-1].content  ->  "What is 15% of 240?\\n\\n(The right answer is 36. Work out ...)"

Rationalisation, as in STaR (Zelikman et al. 2022, arXiv:2203.14465). The hint is in the teacher's prompt alone: the
example that a student learns is made of the question as it was asked and of the reasoning; ``reading.leak`` finds the
traces that let on that the answer was shown.
"""

from collections.abc import Sequence

import msgspec

from cotdistill.engines import Message

HINT = (
    "(The right answer is {gold}. Work out step by step how to get there from the question alone. "
    "Write as if you had not been told it, and do not mention this note.)"
)


def with_hint(messages: Sequence[Message], gold: str) -> tuple[Message, ...]:
    """The prompt with the right answer below its question."""
    *before, last = messages
    return (*before, msgspec.structs.replace(last, content=f"{last.content}\n\n{HINT.format(gold=gold)}"))
