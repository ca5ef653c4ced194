import math

import pytest

from cotdistill.statistics import Paired, decide, gap_closed, mcnemar, p_text, paired, percentile, wilson

Z = 1.959963984540054


def closed_form(correct: int, n: int) -> tuple[float, float]:
    share = correct / n
    centre = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 60), (9, 80), (64, 100), (999, 1000)])
def test_wilson_is_the_closed_form(correct: int, n: int) -> None:
    assert wilson(correct, n) == pytest.approx(closed_form(correct, n), abs=1e-12)


def test_wilson_stays_within_zero_and_one() -> None:
    for n in range(1, 40):
        assert wilson(0, n)[0] == 0.0
        assert wilson(n, n)[1] == 1.0


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_not_a_share(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        wilson(correct, n)


@pytest.mark.parametrize("n", [20, 60, 200])
def test_wilson_covers_the_truth_in_95_of_100_cases_on_average(n: int) -> None:
    intervals = [wilson(correct, n) for correct in range(n + 1)]
    coverages = []
    for truth in (step / 100 for step in range(5, 96)):
        inside = [k for k, (low, high) in enumerate(intervals) if low <= truth <= high]
        coverages.append(sum(math.comb(n, k) * truth**k * (1 - truth) ** (n - k) for k in inside))
    assert 0.945 < sum(coverages) / len(coverages) < 0.96


@pytest.mark.parametrize(
    ("only_base", "only_student", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 2 / 2**5),
        (0, 6, 2 / 2**6),
        (1, 9, 2 * (1 + 10) / 2**10),
        (9, 1, 2 * (1 + 10) / 2**10),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
    ],
)
def test_mcnemar_is_the_two_sided_binomial_sum(only_base: int, only_student: int, p: float) -> None:
    assert mcnemar(only_base, only_student) == pytest.approx(p, rel=1e-9)


def test_paired_counts_the_four_outcomes() -> None:
    base = [True, True, True, False, False, False, False]
    student = [True, True, False, True, True, True, False]
    assert paired(base, student) == Paired(2, 1, 3, 1, p_value=mcnemar(1, 3))


def test_lists_of_different_length_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired([True], [True, False])


@pytest.mark.parametrize(
    ("only_base", "only_student", "verdict"),
    [
        (0, 0, "not_shown"),
        (0, 5, "not_shown"),  # p = 0.0625: five changed answers can never be enough
        (0, 6, "better"),  # p = 0.03125
        (6, 0, "worse"),
        (1, 7, "not_shown"),  # p = 0.0703
        (1, 8, "better"),  # p = 0.0391
        (8, 1, "worse"),
        (20, 20, "not_shown"),
    ],
)
def test_the_verdict_follows_the_bar(only_base: int, only_student: int, verdict: str) -> None:
    pair = Paired(3, only_base, only_student, 9, mcnemar(only_base, only_student))
    assert decide(pair) == verdict


def test_a_p_value_on_the_bar_is_not_below_it() -> None:
    assert decide(Paired(0, 1, 9, 0, p_value=0.05)) == "not_shown"
    assert decide(Paired(0, 1, 9, 0, p_value=math.nextafter(0.05, 0))) == "better"


def test_the_gap_is_the_share_of_the_way_to_the_teacher() -> None:
    assert gap_closed(0.1, 0.4, 0.7) == pytest.approx(0.5)
    assert gap_closed(0.3, 0.1, 0.7) == pytest.approx(-0.5)
    assert gap_closed(0.3, 0.9, 0.3) is None
    assert gap_closed(0.3, 0.9, 0.2) is None


def test_the_gate_says_better_by_mistake_in_at_most_5_of_100_runs_without_effect() -> None:
    """Two models of equal skill on the same 80 questions, hard and easy ones, through the rule itself."""
    import numpy as np

    rng = np.random.default_rng(7)
    runs, n = 2000, 80
    skill = rng.uniform(0.05, 0.95, size=(runs, n))
    base, student = (rng.random((runs, n)) < skill for _ in range(2))
    verdicts = [decide(paired(b.tolist(), s.tolist())) for b, s in zip(base, student, strict=True)]
    better, worse = verdicts.count("better") / runs, verdicts.count("worse") / runs
    assert 0 < better <= 0.025 + 0.007  # each side may err half as often; two standard errors of 2000 runs
    assert 0 < better + worse <= 0.05


def test_without_effect_better_is_said_in_at_most_25_of_1000_runs_however_many_answers_change() -> None:
    """Exactly, by enumeration: every changed answer is a gain or a loss, as a coin falls."""
    for changed in range(80):
        better = [k for k in range(changed + 1) if decide(Paired(0, changed - k, k, 0, mcnemar(changed - k, k))) == "better"]
        assert sum(math.comb(changed, k) for k in better) / 2**changed <= 0.025


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "p = 1"),
        (0.3123, "p = 0.31"),
        (0.04996, "p = 0.04996"),
        (0.0391, "p = 0.039"),
        (0.05, "p = 0.05"),
        (2.1e-7, "p = 2e-7"),
        (3e-11, "p = 3e-11"),
        (0.0, "p < 1e-12"),
    ],
)
def test_p_values_read_well_and_never_round_up_to_the_bar(p: float, text: str) -> None:
    assert p_text(p) == text


def test_a_percentile_is_a_value_that_occurred() -> None:
    assert percentile(range(1, 101), 0.5) == 50
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7], 0.99) == 7
    assert percentile([], 0.5) is None
