"""Resampling: how far a paired difference may be from what was seen, and whether signs alone could have made it.

    difference({1: 33, -1: 1, 0: 46})  ->  Interval(estimate=0.4, low=0.27, high=0.51)

A question's difference is +1 where only the student is right, -1 where only the base is, else 0; over several seeds
it is a mean of those. Questions with the same difference are alike, so that drawing questions with replacement
(Efron 1979) is one multinomial draw of counts, whatever their number. Every draw comes from one fixed seed.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np

DRAWS = 10_000
SEED = 20
MOST_EXACT = 20_000
"""Width of a sign-flip distribution that is computed whole; beyond it the normal one is as good."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was seen and its 95 % interval, all in the same unit (shares, not points)."""

    estimate: float
    low: float
    high: float


def difference(counts: Mapping[float, int]) -> Interval:
    """The mean of paired differences in -1..1, given as how many questions have which; at least one question.

    Percentiles of the bootstrap, drawn with one gain and one loss more than were seen (Bonett and Price 2012): the
    plain bootstrap of a run in which no answer changed would be an interval without width.
    """
    import numpy as np

    n = sum(counts.values())
    padded = Counter(counts)
    padded.update([1.0, -1.0])
    means = _draws(np.array(list(padded.values()))) @ np.array(list(padded)) / (n + 2)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(sum(value * count for value, count in counts.items()) / n, float(low), float(high))


def gap(base: Sequence[bool], student: Sequence[bool], teacher: Sequence[bool]) -> Interval | None:
    """The share of the way from base to teacher that the student went, questions resampled together.

    None where the teacher is not above the base, in the answers or in over 2.5 % of the draws: a share of a gap that
    may not be there has no interval.
    """
    import numpy as np

    counts = Counter(zip(base, student, teacher, strict=True))
    if sum(teacher) <= sum(base):
        return None
    outcomes = np.array(list(counts), dtype=float)
    drawn = _draws(np.array(list(counts.values()))) @ np.column_stack(
        (outcomes[:, 1] - outcomes[:, 0], outcomes[:, 2] - outcomes[:, 0])
    )
    there = drawn[:, 1] > 0
    if np.mean(there) < 0.975:
        return None
    low, high = np.quantile(drawn[there, 0] / drawn[there, 1], (0.025, 0.975))
    return Interval((sum(student) - sum(base)) / (sum(teacher) - sum(base)), float(low), float(high))


def sign_flip(counts: Mapping[int, int]) -> float:
    """Two-sided p-value of "each question's difference is as likely to have the other sign" (Fisher 1935).

    ``counts`` are whole-numbered differences, such as sums over seeds, and how many questions have each. Exact, up to
    ``MOST_EXACT``; with differences of -1, 0 and 1 it is McNemar's test.
    """
    import numpy as np

    sizes = Counter[int]()
    for value, count in counts.items():
        sizes[abs(value)] += count
    del sizes[0]
    seen = abs(sum(value * count for value, count in counts.items()))
    reach = sum(size * count for size, count in sizes.items())
    if reach > MOST_EXACT:
        variance = sum(size * size * count for size, count in sizes.items())
        return math.erfc(seen / math.sqrt(2 * variance))
    chances = np.ones(1)  # of the sums -reach..reach, built up size by size
    for size, count in sizes.items():
        ways = np.zeros(2 * size * count + 1)
        logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)]
        ways[:: 2 * size] = np.exp(np.array(logs) - count * math.log(2))
        chances = np.convolve(chances, ways)
    tail = float(chances[reach + seen :].sum())
    return min(1.0, 2 * tail) if seen else 1.0


def _draws(counts: "np.ndarray") -> "np.ndarray":
    """Bootstrap samples of as many questions, as counts: (draws, kinds of question)."""
    import numpy as np

    n = counts.sum()
    return np.random.default_rng(SEED).multinomial(n, counts / n, size=DRAWS)
