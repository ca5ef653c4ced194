"""Power: how many held-out questions it takes to see a gain.

The exact power of the exact two-sided McNemar test (as in ``statistics.mcnemar``, at 0.05): the number of changed
answers is binomial, and given it the number of gains is. No normal approximation is made.
"""

from cotdistill.statistics import SIGNIFICANCE, Paired

CLOSED = 0.5
"""The share of the gap to its teacher that a student is expected to close; the quickstart's closes about 0.6."""

POWER = 0.8

MOST = 50_000
"""No more questions than these are looked at."""


def expected_changes(base_to_teacher: Paired) -> tuple[float, float]:
    """The shares of questions that a student gains and loses against its base.

    The student is taken to answer as the teacher does on ``CLOSED`` of the questions and as its base on the others;
    base and teacher are known from a sample. Half a question is added to the losses, for a small sample may show none.
    """
    n = base_to_teacher.n
    return CLOSED * base_to_teacher.only_student / n, CLOSED * (base_to_teacher.only_base + 0.5) / (n + 1)


def power(questions: int, gains: float, losses: float) -> float:
    """The probability that ``questions`` show the student better, where it gains and loses these shares of them."""
    import numpy as np
    from scipy.stats import binom

    if not gains:
        return 0.0
    changed = np.arange(1, questions + 1)
    # The fewest gains that are significant: at one half, twice the upper tail is below the bar.
    fewest = binom.isf(SIGNIFICANCE / 2, changed, 0.5) + 1
    seen = binom.sf(fewest - 1, changed, gains / (gains + losses))
    return float(np.dot(binom.pmf(changed, questions, min(1.0, gains + losses)), seen))


def needed_questions(gains: float, losses: float) -> int | None:
    """The fewest questions with power ``POWER``, None where there is no gain or ``MOST`` are too few."""
    if gains <= losses:
        return None
    low, high = 0, 8
    while power(high, gains, losses) < POWER:
        if high >= MOST:
            return None
        low, high = high, min(MOST, 2 * high)
    while high - low > 1:  # the power rises with the number, but for ripples of a question or two
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, gains, losses) >= POWER else (middle, high)
    return high
