"""Samples: what several answers to one question are worth.

    pass_at(10, 3, k=5) -> 0.917: the chance that five of the ten answers hold a right one
"""

import math
from collections.abc import Sequence

from cotdistill.answer import same_answer
from cotdistill.prediction import Prediction


def pass_at(n: int, right: int, k: int) -> float:
    """The chance that ``k`` of ``n`` answers, drawn without replacement, hold one of the ``right`` ones: the unbiased
    estimate of pass@k (Chen et al. 2021, arXiv:2107.03374). ``k`` is 1..n."""
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} answers, {right} of them right, means nothing")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def pass_curve(right: Sequence[tuple[int, int]]) -> dict[int, float]:
    """Mean pass@k over the questions, each ``(answers, right ones)``, for k = 1, 2, 4, ... and the fewest answers."""
    fewest = min(n for n, _ in right)
    sizes = {*(2**power for power in range(fewest.bit_length())), fewest}
    return {k: sum(pass_at(n, good, k) for n, good in right) / len(right) for k in sorted(sizes) if k <= fewest}


def majority(answers: Sequence[Prediction], right: Sequence[bool]) -> float:
    """Whether the answer that most samples of one question give is right (self-consistency, Wang et al. 2022,
    arXiv:2203.11171); of tied answers each counts its share. What found no answer has no vote; without votes 0."""
    groups: list[tuple[str, list[bool]]] = []
    for row, good in zip(answers, right, strict=True):
        if not row.answer:
            continue
        # Right answers are one group, whatever their spelling.
        same = next((group for text, group in groups if group[0] == good and (good or _same(text, row.answer))), None)
        if same is None:
            groups.append((row.answer, [good]))
        else:
            same.append(good)
    most = max((len(group) for _, group in groups), default=0)
    tied = [group[0] for _, group in groups if len(group) == most]
    return sum(tied) / len(tied) if tied else 0.0


def _same(a: str, b: str) -> bool:
    return a == b or same_answer(a, b)
