"""Our few lines against statsmodels, which has the same statistics, on random tables."""

import random

import pytest

from cotdistill.statistics import mcnemar, wilson

proportion = pytest.importorskip("statsmodels.stats.proportion")
contingency = pytest.importorskip("statsmodels.stats.contingency_tables")


def test_wilson_is_that_of_statsmodels() -> None:
    chance = random.Random(1)
    for _ in range(300):
        n = chance.randint(1, 2000)
        correct = chance.randint(0, n)
        theirs = proportion.proportion_confint(correct, n, alpha=0.05, method="wilson")
        assert wilson(correct, n) == pytest.approx([float(end) for end in theirs], abs=1e-12)


def test_mcnemar_is_that_of_statsmodels() -> None:
    chance = random.Random(2)
    for _ in range(300):
        both, lost, gained, neither = (chance.randint(0, chance.choice((3, 40, 400))) for _ in range(4))
        theirs = contingency.mcnemar([[both, lost], [gained, neither]], exact=True).pvalue
        assert mcnemar(lost, gained) == pytest.approx(float(theirs), rel=1e-9, abs=1e-300)
