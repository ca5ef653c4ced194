"""Dev split: training questions that are set aside to choose on.

    24 questions, dev_share 0.25    ->    18 to learn from, 6 to choose on, which share no text (and no operands)

Drawn from ids and seed alone, so that the same questions are set aside wherever and however often a run is begun.
"""

import hashlib
from collections.abc import Iterator, Sequence

from cotdistill.errors import DataError
from cotdistill.generated import operands
from cotdistill.overlap import words
from cotdistill.question import Question
from cotdistill.settings.objective import AutoSettings

FEWEST = 2
"""With one question nothing could ever be clearly ahead."""


def split(
    questions: Sequence[Question], settings: AutoSettings, seed: int, *, generated: bool
) -> tuple[list[Question], list[Question]]:
    """The questions to learn from and those to choose on, each in their order. Questions with the same words stay on
    one side, and ``generated`` ones with the same operands too, in whose task the numbers are what is asked. Only
    questions with an answer are set aside.

    Raises ``DataError`` where fewer than ``FEWEST`` can be.
    """
    wanted = min(settings.max_dev, round(settings.dev_share * len(questions)), len(questions) - 1)

    def drawn(group: Sequence[Question]) -> bytes:
        return hashlib.sha256(f"{seed} {min(question.id for question in group)}".encode()).digest()

    dev: set[str] = set()
    for group in sorted(_together(questions, generated), key=drawn):
        if len(dev) + len(group) <= wanted and all(question.gold is not None for question in group):
            dev |= {question.id for question in group}
    if len(dev) < FEWEST:
        raise DataError(
            f"auto needs {FEWEST} training questions or more to choose on, with an answer and unlike the others, and "
            f"{len(questions)} questions at dev_share {settings.dev_share:g} give {len(dev)}; give more, or name one "
            "objective"
        )
    return [one for one in questions if one.id not in dev], [one for one in questions if one.id in dev]


def _together(questions: Sequence[Question], generated: bool) -> list[list[Question]]:
    """The questions in groups that share no key with each other."""
    parent = list(range(len(questions)))
    first: dict[tuple[str, ...], int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, question in enumerate(questions):
        for key in _keys(question, generated):
            parent[root(i)] = root(first.setdefault(key, i))
    groups: dict[int, list[Question]] = {}
    for i, question in enumerate(questions):
        groups.setdefault(root(i), []).append(question)
    return list(groups.values())


def _keys(question: Question, generated: bool) -> Iterator[tuple[str, ...]]:
    yield ("words", *words(question))
    if generated and (found := operands(question.text)):
        yield ("operands", *found)
