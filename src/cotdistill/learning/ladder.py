"""Ladder: which objective suits this student, by what each makes of questions that nobody was trained on. Pure.

    {"base": {"right": 9, "n": 25}, "chosen": "sft", "shown": "sft", "rungs": [
      {"name": "sft", "outcome": "chosen", "why": "", "short": {"right": 13, "n": 25, "gained": 5, "lost": 1, ...},
       "full": {"right": 15, "n": 25, "gained": 7, "lost": 1, "p_value": 0.07, "epochs": 3.0, "tokens": 81200, ...}},
      {"name": "on_policy", "outcome": "refused", "why": "on_policy compares probabilities token by token, and ..."}]}

Every rung is trained short, the better ones in full: one step of successive halving (Jamieson and Talwalkar 2015,
arXiv:1502.07943). Two sets of answers are compared question by question: z is gains less losses over the square root
of their sum, McNemar's statistic (1947) with its sign. The bar of 1 is low on purpose: it picks, the held-out
questions prove.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from cotdistill.errors import UsageError
from cotdistill.settings.objective import Objective, OneObjective
from cotdistill.statistics import paired

BASE: Literal["base"] = "base"
CLEAR = 1.0
"""How far ahead, in z, a set of answers must be to take another's place, or to have the other dropped."""

MOST = 2
"""How many rungs are trained in full."""

SHORT = 3
"""A short training is this part of the epochs, at least one."""

SHORT_NAME = "_short"
"""How the name of its directory ends."""

Marks = Sequence[bool]
"""Whether each dev question was answered rightly, in their order."""

Chosen = OneObjective | Literal["base"]

Outcome = Literal["chosen", "not_chosen", "dropped", "refused", "failed"]
"""``dropped`` after its short training; ``refused`` before any, for what it is; ``failed`` in its own way."""


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training and its answers; gained, lost and the exact p-value are against the base. ``tokens`` were trained
    on, ``seconds`` spent on training, asking, and, for ``reject_on_student``, the student's own samples."""

    right: int
    n: int
    gained: int
    lost: int
    p_value: float
    epochs: float
    tokens: int
    seconds: float


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One objective, and how far it came. Where trainings are too short to be cut, there is no ``short``."""

    name: OneObjective
    outcome: Outcome
    why: str = ""
    short: Trial | None = None
    full: Trial | None = None

    @property
    def last(self) -> Trial | None:
        return self.full or self.short


class Tally(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    right: int
    n: int


class Ladder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``chosen`` is a rung or ``base``; ``shown`` is the directory in ``rungs/`` whose adapter became the student: the
    chosen one's, or where it is the base that of the rung that came closest."""

    base: Tally
    rungs: list[Rung]
    chosen: Chosen
    shown: str

    @property
    def student(self) -> Rung:
        """The rung of the student."""
        return next(rung for rung in self.rungs if rung.name == self.shown.removesuffix(SHORT_NAME))


def refuse_alone(objective: Objective) -> None:
    """Raise ``UsageError`` for the ladder where a single training was asked for."""
    if objective == "auto":
        raise UsageError(
            "auto trains several students and compares them on some of the training questions: put "
            "`train: {objective: auto}` into a recipe for `cotdistill run`, or name one objective here"
        )


def short_of(epochs: float) -> float:
    """The epochs of a short training."""
    return min(epochs, max(1.0, epochs / SHORT))


def trial(base: Marks, rung: Marks, *, epochs: float, tokens: int, seconds: float) -> Trial:
    pair = paired(base, rung)
    return Trial(sum(rung), len(rung), pair.only_student, pair.only_base, pair.p_value, epochs, tokens, seconds)


def z(best: Marks, rung: Marks) -> float:
    """How far ``rung`` is ahead of ``best``; 0 where no answer changed."""
    pair = paired(best, rung)
    changed = pair.only_student + pair.only_base
    return (pair.only_student - pair.only_base) / math.sqrt(changed) if changed else 0.0


def best_of(base: Marks, rungs: Mapping[OneObjective, Marks]) -> Chosen:
    """``base``, or the rung that took the place of the best before it. The cheap rungs come first, and
    only a clear lead replaces what is best so far."""
    best: Chosen = BASE
    marks = base
    for name, its in rungs.items():
        if z(marks, its) > CLEAR:
            best, marks = name, its
    return best


def survivors(
    base: Marks, rungs: Mapping[OneObjective, Marks]
) -> tuple[list[OneObjective], dict[OneObjective, str]]:
    """Which rungs are worth a full training, in their order, and why the others are not: clearly behind the best so
    far, the base included, or behind ``MOST`` others in right answers (the cheaper first where they tie)."""
    best = best_of(base, rungs)
    marks = rungs[best] if best != BASE else base
    dropped: dict[OneObjective, str] = {}
    for name, its in rungs.items():
        if z(marks, its) < -CLEAR:
            pair = paired(marks, its)
            dropped[name] = f"behind {best} after its short training: {pair.only_student} gained, {pair.only_base} lost"
    standing = [name for name in rungs if name not in dropped]
    kept = sorted(standing, key=lambda name: -sum(rungs[name]))[:MOST]
    for name in standing:
        if name not in kept:
            dropped[name] = f"fewer right than {' and '.join(kept)}, and {MOST} are trained in full"
    return [name for name in standing if name in kept], dropped


def closest(rungs: Mapping[OneObjective, Marks]) -> OneObjective:
    """The rung with the most right answers, the cheapest of equals."""
    return max(rungs, key=lambda name: sum(rungs[name]))
