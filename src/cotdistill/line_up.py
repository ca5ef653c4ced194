"""Line-up: which model of a run is asked which questions, and how.

    base      base, unseen/base, base_few_shot, base_native
    student   student, unseen/student, and for step_by_step student_label, asked for the answer alone
    answer_only   answer_only, where the recipe wants that second student
    teacher   teacher, unseen/teacher
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cotdistill.answer_only import adapter_beside
from cotdistill.prompt import LABEL_PROMPT, Shot
from cotdistill.question import Question
from cotdistill.recipe import Recipe
from cotdistill.sets import Sets
from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.settings.objective import Objective

UNSEEN = "unseen/"
"""How the labels of answers to questions of another kind begin."""


class Asked(msgspec.Struct, frozen=True):
    """One set of answers: ``label`` is the name of their file in ``6_predictions`` and of their stage."""

    label: str
    questions: Sequence[Question]
    system_prompt: str
    shots: Sequence[Shot] = ()


class Entrant(msgspec.Struct, frozen=True):
    """A model that is opened once for all that it is asked; ``spec`` is its path or name."""

    name: str
    spec: str
    adapter: Path | None
    asked: list[Asked]


def labels(recipe: Recipe, objective: Objective, *, unseen: bool) -> dict[str, list[str]]:
    """The labels of each model's answers, all in their order; those to questions of another kind where there are
    ``unseen`` ones. ``objective`` is what the student is trained for."""
    settings = recipe.evaluate
    more = {
        "base": [f"base_{way}" for way in settings.baselines if way != "zero"],
        "student": ["student_label"] if objective == "step_by_step" else [],
    }
    asked = {"base": True, "student": True, ANSWER_ONLY: settings.answer_only, "teacher": settings.teacher}
    return {
        name: [name, *([UNSEEN + name] if unseen and name != ANSWER_ONLY else []), *more.get(name, [])]
        for name in asked
        if asked[name]
    }


def line_up(
    recipe: Recipe, sets: Sets, shots: Sequence[Shot], adapter: Path, objective: Objective
) -> list[Entrant]:
    """Base, student and teacher, in their order. ``objective`` is what the student was trained for, ``adapter`` where
    it is."""
    prompt, adapters = recipe.generate.system_prompt, {"student": adapter, ANSWER_ONLY: adapter_beside(adapter)}
    other_ways: dict[str, tuple[str, Sequence[Shot]]] = {
        "base_few_shot": (prompt, shots), "base_native": ("", ()), "student_label": (LABEL_PROMPT, ()),
    }  # fmt: skip

    def asked(label: str) -> Asked:
        questions = sets.unseen if label.startswith(UNSEEN) else sets.held_out
        return Asked(label, questions, *other_ways.get(label, (prompt, ())))

    models = recipe.models
    return [
        Entrant(name, models.teacher if name == "teacher" else models.student, adapters.get(name), [*map(asked, its)])
        for name, its in labels(recipe, objective, unseen=recipe.questions.unseen is not None).items()
    ]
