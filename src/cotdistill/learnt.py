"""Learnt: which questions an adapter was trained on, beside it in ``trained_on.txt``, each as a hash of its words.

    0b1d6f0c2ad7c4e1
    9f0e5a8c41b2d376

The hashes tell whoever tests the adapter which of their questions it has seen, and nobody what they were.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from cotdistill.identity import digest
from cotdistill.overlap import words
from cotdistill.question import Question
from cotdistill.storage.disk import write_atomic

LEARNT = "trained_on.txt"


def write_learnt(adapter: Path, questions: Iterable[Question]) -> None:
    """Write the file into the directory ``adapter``."""
    marks = sorted({digest(words(question)) for question in questions})
    write_atomic(adapter / LEARNT, "".join(f"{mark}\n" for mark in marks).encode())


def learnt(adapter: Path, questions: Iterable[Question]) -> list[str]:
    """The ids of those ``questions`` that the adapter was trained on, word for word; none where it does not say."""
    try:
        marks = set((adapter / LEARNT).read_text().split())
    except OSError:
        return []
    return [question.id for question in questions if not marks.isdisjoint(_marks(question))]


def _marks(question: Question) -> set[str]:
    """Its own, and the one without its choices, which hand-made traces seldom carry."""
    return {digest(words(question)), digest(words(msgspec.structs.replace(question, choices=None)))}
