"""Question: what is asked.

    {"question": "What is 15% of 240?", "answer": "36", "id": "q1a2", "category": "percent"}
"""

import msgspec


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question. ``gold`` is the right answer as its author wrote it (the part after ``####`` for
    GSM8K-style answers), None where nobody knows it. ``kind`` overrides the kind inferred from gold."""

    id: str
    text: str = msgspec.field(name="question")
    gold: str | None = msgspec.field(name="answer", default=None)
    kind: str | None = None
    category: str | None = None
    choices: tuple[str, ...] | None = None
