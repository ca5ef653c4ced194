"""Slices: the same comparison on a part of the questions.

    {"by": "length", "name": "up to 85 characters", "n": 27, "correct": {"base": 3, "student": 12},
     "gained": 10, "lost": 1, "p_value": 0.012}

By category (the key ``category`` of a question, else its generator or data set), by kind of answer and by length.
Of many slices some differ by chance: they say where to look, and none of them bears on the verdict.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from cotdistill.grade import gold_of
from cotdistill.question import Question
from cotdistill.statistics import mcnemar

Way = Literal["category", "kind", "length"]

FEWEST = 5
"""Questions in a slice; of fewer nothing is said."""


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Right answers of every model (lenient); ``gained`` and ``lost`` from base to student, None without the two."""

    by: Way
    name: str
    n: int
    correct: dict[str, int]
    gained: int | None = None
    lost: int | None = None
    p_value: float | None = None


def slices(questions: Sequence[Question], right: Mapping[str, Sequence[bool]]) -> list[Slice]:
    """The slices of graded ``questions``; ``right`` says for each model which of them it had right.

    A way of slicing that would leave everything in one piece is left out.
    """
    categories = [question.category or "no category" for question in questions]
    kinds = [gold_of(question)[1] for question in questions]
    lengths, in_order = _lengths(questions)
    ways: tuple[tuple[Way, list[str], list[str]], ...] = (
        ("category", categories, sorted(set(categories))),
        ("kind", kinds, sorted(set(kinds))),
        ("length", lengths, in_order),
    )
    return [part for by, names, order in ways if len(set(names)) > 1 for part in _parts(by, names, order, right)]


def _parts(by: Way, names: list[str], order: list[str], right: Mapping[str, Sequence[bool]]) -> Iterator[Slice]:
    places: dict[str, list[int]] = {name: [] for name in order}
    for at, name in enumerate(names):
        places[name].append(at)
    for name, chosen in places.items():
        if len(chosen) < FEWEST:
            continue
        correct = {model: sum(marks[at] for at in chosen) for model, marks in right.items()}
        base, student = right.get("base"), right.get("student")
        if base is None or student is None:
            yield Slice(by, name, len(chosen), correct)
            continue
        gained = sum(student[at] and not base[at] for at in chosen)
        lost = sum(base[at] and not student[at] for at in chosen)
        yield Slice(by, name, len(chosen), correct, gained, lost, mcnemar(lost, gained))


def _lengths(questions: Sequence[Question]) -> tuple[list[str], list[str]]:
    """The third of the questions, by characters, that each is in; and the thirds."""
    sizes = [len(question.text) for question in questions]
    if len(sizes) < 3 * FEWEST:
        return ["any"] * len(sizes), ["any"]
    ordered = sorted(sizes)
    first, second = ordered[len(sizes) // 3 - 1], ordered[2 * len(sizes) // 3 - 1]
    middle = f"{first + 1} to {second}" if second > first + 1 else f"{second}"
    names = [f"up to {first} characters", f"{middle} characters", f"over {second} characters"]
    return [names[(size > first) + (size > second)] for size in sizes], names
