"""Ladder report: what the ladder of a run found, beside what the held-out questions then said. Pure.

    Chosen on 25 dev questions: sft, 15 right against the base's 9. The held-out questions agree.
"""

from typing import Any, Literal

import msgspec

from cotdistill.learning.ladder import BASE, Ladder, Trial
from cotdistill.report import Report
from cotdistill.statistics import Decision, p_text

HeldOut = Literal["agrees", "open", "disagrees"]
"""``open``: a rung was chosen, and the held-out questions show it neither better nor worse than the base."""

HEADINGS = ("rung", "dev", "gained", "lost", "p", "tokens", "seconds", "outcome")

_SAID: dict[HeldOut, str] = {
    "agrees": "The held-out questions agree.",
    "open": "The held-out questions show no difference.",
    "disagrees": "The held-out questions disagree.",
}


class Line(msgspec.Struct, frozen=True):
    """One training of a rung, or a rung without any, as it is shown; ``trial`` None where nothing was trained."""

    name: str
    trial: Trial | None
    outcome: str
    why: str = ""

    @property
    def said(self) -> str:
        """Why, with the name of the rung before it, once; "" for no reason."""
        return self.why if not self.why or self.why.startswith(self.name) else f"{self.name}: {self.why}"


def with_ladder(report: Report, ladder: Ladder) -> Report:
    """The report with the ladder in its details. Where the base was chosen the verdict cannot be ``better``: nobody
    would have picked that student without a look at the held-out questions."""
    agreement = held_out(ladder, report.verdict)
    details = {
        **report.details,
        "ladder": {
            **msgspec.to_builtins(ladder), "seconds": seconds(ladder), "tokens": tokens(ladder), "held_out": agreement,
            "sentence": _sentence(ladder, agreement),
        },
    }  # fmt: skip
    if ladder.chosen != BASE:
        return msgspec.structs.replace(report, details=details)
    verdict = capped(report.verdict, ladder) if report.verdict else None
    return msgspec.structs.replace(report, details=details, verdict=verdict, sentence=_kept(report, ladder))


def capped(verdict: Decision, ladder: Ladder | None) -> Decision:
    """What may be said of a student: nothing better than ``not_shown`` where the base was chosen."""
    return "not_shown" if verdict == "better" and ladder and ladder.chosen == BASE else verdict


def held_out(ladder: Ladder, verdict: Decision | None) -> HeldOut | None:
    """Whether the held-out questions bear out the choice; None without a verdict on them."""
    if verdict is None:
        return None
    if ladder.chosen == BASE:
        return "disagrees" if verdict == "better" else "agrees"
    said: dict[Decision, HeldOut] = {"better": "agrees", "not_shown": "open", "worse": "disagrees"}
    return said[verdict]


def seconds(ladder: Ladder) -> float:
    """What all trainings and the questions to them took."""
    return round(sum(trial.seconds for trial in _trials(ladder)), 1)


def tokens(ladder: Ladder) -> int:
    return sum(trial.tokens for trial in _trials(ladder))


def ladder_lines(details: dict[str, Any]) -> list[Line]:
    """The rows of a table, from ``details["ladder"]``: each rung's short training, then its full one."""
    keys = {field.name for field in msgspec.structs.fields(Ladder)}
    ladder = msgspec.convert({key: value for key, value in details.items() if key in keys}, Ladder)
    lines = []
    for rung in ladder.rungs:
        outcome = rung.outcome.replace("_", " ")
        if rung.short:
            end = ("", "") if rung.full else (outcome, rung.why)
            lines.append(Line(f"{rung.name}, short", rung.short, *end))
        if rung.full or not rung.short:
            lines.append(Line(rung.name, rung.full, outcome, rung.why))
    return lines


def _trials(ladder: Ladder) -> list[Trial]:
    return [trial for rung in ladder.rungs for trial in (rung.short, rung.full) if trial]


def _sentence(ladder: Ladder, agreement: HeldOut | None) -> str:
    base, best = ladder.base, ladder.student.last
    said = f"Chosen on {base.n} dev questions: "
    if ladder.chosen == BASE or best is None:
        said += f"the base, {base.right} right, for no rung was clearly ahead of it."
    else:
        said += f"{ladder.chosen}, {best.right} right against the base's {base.right}."
    return f"{said} {_SAID[agreement]}" if agreement else said


def _kept(report: Report, ladder: Ladder) -> str:
    """The verdict in a sentence where the base was chosen."""
    said = f"Keep the base: no rung of the ladder was clearly ahead of it on {ladder.base.n} dev questions."
    base, student = report.models.get("base"), report.models.get("student")
    if report.paired is None or base is None or student is None:
        return said
    return (
        f"{said} The closest, {ladder.student.name}, answers {student.correct} of {student.n} held-out questions "
        f"right, the base {base.correct} ({p_text(report.paired.p_value)})."
    )
