import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest

from cotdistill.power import needed_questions
from cotdistill.resampling import MOST_EXACT, Interval, difference, gap, sign_flip
from cotdistill.statistics import approximate_needed_questions, mcnemar


def counted(gained: int, lost: int, n: int) -> dict[float, int]:
    return {1.0: gained, -1.0: lost, 0.0: n - gained - lost}


def test_an_interval_is_the_same_every_time_and_holds_what_was_seen() -> None:
    chance = random.Random(1)
    for _ in range(60):
        n = chance.randint(1, 300)
        gained = chance.randint(0, n)
        lost = chance.randint(0, n - gained)
        found = difference(counted(gained, lost, n))
        assert found == difference(counted(gained, lost, n))
        assert found.estimate == pytest.approx((gained - lost) / n)
        assert -1 <= found.low <= found.estimate <= found.high <= 1


def test_a_run_in_which_no_answer_changed_still_has_a_width() -> None:
    found = difference(counted(0, 0, 60))
    assert found.low < -0.02 < 0.02 < found.high


def test_gains_and_losses_exchanged_mirror_the_interval() -> None:
    one, other = difference(counted(12, 3, 80)), difference(counted(3, 12, 80))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.013)  # a question more or less


@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize(
    ("gained", "lost"), [(0.0, 0.0), (0.02, 0.02), (0.05, 0.0), (0.1, 0.1), (0.3, 0.05), (0.6, 0.02)]
)
def test_the_interval_of_the_difference_covers_the_truth_in_at_least_93_of_100_runs(
    n: int, gained: float, lost: float
) -> None:
    rng = np.random.default_rng(int(1000 * gained + 100 * lost + n))
    runs = Counter(map(tuple, rng.multinomial(n, (gained, lost, 1 - gained - lost), size=1500).tolist()))
    covered = 0
    for (won, less, _), count in runs.items():
        found = difference(counted(won, less, n))
        covered += count * (found.low - 1e-9 <= gained - lost <= found.high + 1e-9)
    assert covered / 1500 >= 0.93


def test_over_seeds_the_interval_covers_the_mean_over_all_questions_too() -> None:
    """Three seeds answer the same 80 questions, each with a skill of its own for base and student."""
    rng = np.random.default_rng(3)
    n, runs, covered = 80, 400, 0
    for _ in range(runs):
        base, student = rng.uniform(0, 0.6, n), rng.uniform(0.2, 0.9, n)
        right = [(rng.random((3, n)) < skill).sum(axis=0) for skill in (base, student)]
        found = difference(Counter(((right[1] - right[0]) / 3).tolist()))
        covered += found.low <= 0.55 - 0.3 <= found.high
    assert covered / runs >= 0.93


def test_the_interval_of_the_gap_covers_the_truth_in_at_least_93_of_100_runs() -> None:
    rng = np.random.default_rng(5)
    n, runs, covered, known = 100, 500, 0, 0
    for _ in range(runs):
        luck = rng.random((3, n))
        base, student, teacher = (list(luck[at] < skill) for at, skill in enumerate((0.2, 0.5, 0.8)))
        found = gap(base, student, teacher)
        if found is not None:
            known += 1
            covered += found.low <= 0.5 <= found.high
    assert known > 0.98 * runs
    assert covered / known >= 0.93


def test_a_gap_that_may_not_be_there_has_no_interval() -> None:
    assert gap([False] * 20, [True] * 20, [False] * 20) is None
    assert gap([True] * 10 + [False] * 10, [True] * 20, [False] * 9 + [True] * 11) is None
    sure = gap([False] * 20, [True] * 10 + [False] * 10, [True] * 20)
    assert isinstance(sure, Interval)
    assert sure.low < sure.estimate == 0.5 < sure.high


def test_a_gap_that_is_there_in_96_of_100_draws_has_no_interval() -> None:
    both, gains, losses = 6, 11, 4
    base = [True] * (both + losses) + [False] * 30
    teacher = [True] * both + [False] * losses + [True] * gains + [False] * (30 - gains)
    assert gap(base, base, teacher) is None


def test_with_one_seed_the_sign_flip_test_is_mcnemars() -> None:
    for gained, lost in itertools.product(range(0, 30, 3), range(0, 30, 4)):
        assert sign_flip({1: gained, -1: lost, 0: 7}) == pytest.approx(mcnemar(lost, gained), rel=1e-9)


def test_the_sign_flip_test_is_what_counting_every_flip_gives() -> None:
    chance = random.Random(2)
    for _ in range(25):
        values = [chance.randint(-3, 3) for _ in range(9)]
        seen = abs(sum(values))
        sums = [abs(sum(map(int.__mul__, values, signs))) for signs in itertools.product((-1, 1), repeat=9)]
        expected = sum(total >= seen for total in sums) / len(sums)
        assert sign_flip(Counter(values)) == pytest.approx(expected, rel=1e-9)


def test_very_many_questions_take_the_normal_distribution_and_agree() -> None:
    gained, lost = MOST_EXACT // 2 + 160, MOST_EXACT // 2 - 160
    exact, normal = sign_flip({1: gained - 1, -1: lost}), sign_flip({1: gained + 1, -1: lost})
    assert exact == pytest.approx(normal, rel=0.1)
    assert normal < 0.05


def test_very_many_questions_over_several_seeds_agree_too() -> None:
    counts = {2: 5_100, -2: 4_900, 1: 50}
    assert sum(abs(value) * count for value, count in counts.items()) > MOST_EXACT
    seen, variance = 2 * 200 + 50, 4 * 10_000 + 50
    assert sign_flip(counts) == pytest.approx(math.erfc(seen / math.sqrt(2 * variance)), rel=1e-9)


def test_the_questions_needed_show_the_gain_in_8_of_10_runs() -> None:
    rng = np.random.default_rng(9)
    for gained, lost in [(0.1, 0.0), (0.15, 0.05), (0.3, 0.1), (0.5, 0.05)]:
        n = approximate_needed_questions(gained, lost)
        assert n is not None
        drawn = rng.multinomial(n, (gained, lost, 1 - gained - lost), size=2000).tolist()
        power = sum(won > less and mcnemar(less, won) < 0.05 for won, less, _ in drawn) / 2000
        assert 0.76 < power < 0.9, (gained, lost, n)
    assert approximate_needed_questions(0.1, 0.1) is None
    assert math.isclose(approximate_needed_questions(0.2, 0.1) or 0, approximate_needed_questions(0.1, 0.2) or 1)


def test_the_questions_needed_are_connors() -> None:
    assert (approximate_needed_questions(0.9, 0.0), approximate_needed_questions(0.2, 0.05)) == (7, 92)


def test_the_formula_agrees_with_the_exact_search() -> None:
    for gained, lost in [(0.1, 0.0), (0.15, 0.05), (0.3, 0.1), (0.07, 0.02), (0.15, 0.1)]:
        assert approximate_needed_questions(gained, lost) == pytest.approx(needed_questions(gained, lost), rel=0.15)
