"""The few statistics a verdict rests on: one interval, one paired test, one rule, and how many questions it needs.

Wilson's score interval (Wilson 1927) for a share of right answers; McNemar's test for two models that
answered the same questions, in its exact binomial form (McNemar 1947), because the numbers of changed
answers are small here. Everything is pure. Both are a few lines, while importing scipy.stats for them would take
longer than all the rest of making a report.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

SIGNIFICANCE = 0.05
Z = 1.959963984540054
"""The 0.975 quantile of the normal distribution."""
Z_POWER = 0.8416212335729143
"""Its 0.8 quantile."""

Decision = Literal["better", "not_shown", "worse"]


class Paired(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base and student on the same questions: who was right where, and the exact two-sided p-value.

    {"both": 8, "only_base": 1, "only_student": 33, "neither": 38, "p_value": 4e-09}
    """

    both: int
    only_base: int
    only_student: int
    neither: int
    p_value: float

    @property
    def n(self) -> int:
        """Questions."""
        return self.both + self.only_base + self.only_student + self.neither


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval, within 0..1, of the share ``correct / n``; ``n`` is at least 1."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is not a share")
    share, square = correct / n, Z * Z / n
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # At both ends the formula gives 0 and 1 but for rounding.
    return (max(0.0, middle - half) if correct else 0.0), (min(1.0, middle + half) if correct < n else 1.0)


def mcnemar(only_base: int, only_student: int) -> float:
    """Exact two-sided p-value of "a changed answer is as often a gain as a loss"; 1 where none changed.

    Questions both got right or both got wrong say nothing about the difference and are not asked for.
    """
    changed = only_base + only_student
    if changed == 0:
        return 1.0
    # At one half both tails are the same: twice the smaller one, in whole numbers up to the one division.
    ways = tail = 1
    for k in range(min(only_base, only_student)):
        ways = ways * (changed - k) // (k + 1)
        tail += ways
    return float(min(1.0, tail / 2 ** (changed - 1)))


def paired(base: Sequence[bool], student: Sequence[bool]) -> Paired:
    """Count the four outcomes; position i of both sequences is the same question."""
    pairs = list(zip(base, student, strict=True))
    only_base = pairs.count((True, False))
    only_student = pairs.count((False, True))
    return Paired(
        both=pairs.count((True, True)),
        only_base=only_base,
        only_student=only_student,
        neither=pairs.count((False, False)),
        p_value=mcnemar(only_base, only_student),
    )


def decide(pair: Paired) -> Decision:
    """``better`` or ``worse`` only where the difference is significant at 0.05, two-sided."""
    if pair.p_value >= SIGNIFICANCE:
        return "not_shown"
    return "better" if pair.only_student > pair.only_base else "worse"


def gap_closed(base: float, student: float, teacher: float) -> float | None:
    """The share of the way from base to teacher that the student went (1: all of it; below 0: backwards).

    None where the teacher is not above the base: there is no gap then.
    """
    return (student - base) / (teacher - base) if teacher > base else None


def percentile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that at least this share of the values does not exceed; None where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def approximate_needed_questions(gained: float, lost: float) -> int | None:
    """How many questions show a gain at 0.05, two-sided, with power 0.8 (Connor 1987, with 1/|difference| more for
    the exact test), where ``gained`` and ``lost`` are the shares of questions that change. None without a difference.
    ``power.needed_questions`` is exact; it needs scipy, whose import would take longer than a report may.
    """
    changed, difference = gained + lost, abs(gained - lost)
    if not difference:
        return None
    spread = math.sqrt(max(0.0, changed - difference * difference))
    return math.ceil(((Z * math.sqrt(changed) + Z_POWER * spread) / difference) ** 2 + 1 / difference)


def p_text(p: float) -> str:
    """``p = 0.31``, ``p = 2e-7``; a p-value below the bar is never rounded up to it."""
    if p < 1e-12:
        return "p < 1e-12"
    if p < 0.001:
        return f"p = {p:.0e}".replace("e-0", "e-")
    digits = 2
    while p < SIGNIFICANCE <= float(f"{p:.{digits}g}"):
        digits += 1
    return f"p = {p:.{digits}g}"
