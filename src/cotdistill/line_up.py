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


def line_up(
    recipe: Recipe, sets: Sets, shots: Sequence[Shot], adapter: Path, objective: Objective
) -> list[Entrant]:
    """Base, student and teacher, in their order. ``objective`` is what the student was trained for, ``adapter`` where
    it is."""
    settings, prompt = recipe.evaluate, recipe.generate.system_prompt
    other_ways: dict[str, tuple[str, Sequence[Shot]]] = {"few_shot": (prompt, shots), "native": ("", ())}
    entrants = []
    for name, spec, its_adapter in (
        ("base", recipe.models.student, None),
        ("student", recipe.models.student, adapter),
        *(((ANSWER_ONLY, recipe.models.student, adapter_beside(adapter)),) if settings.answer_only else ()),
        *((("teacher", recipe.models.teacher, None),) if settings.teacher else ()),
    ):
        asked = [Asked(name, sets.held_out, prompt)]
        if recipe.questions.unseen and name != ANSWER_ONLY:
            asked.append(Asked(f"unseen/{name}", sets.unseen, prompt))
        if name == "base":
            ways = {way: other_ways[way] for way in settings.baselines if way in other_ways}
            asked += [Asked(f"base_{way}", sets.held_out, *how) for way, how in ways.items()]
        if name == "student" and objective == "step_by_step":
            asked.append(Asked("student_label", sets.held_out, LABEL_PROMPT))
        entrants.append(Entrant(name, spec, its_adapter, asked))
    return entrants
