from itertools import combinations

import pytest

from cotdistill.reporting.samples import majority, pass_at, pass_curve
from cotdistill.reporting.score import summarize
from cotdistill.reporting.tabular import tabular
from test_report import asked, build_report, row, shown


def test_pass_at_k_is_what_drawing_every_k_answers_gives() -> None:
    for n in range(1, 8):
        for right in range(n + 1):
            marks = [True] * right + [False] * (n - right)
            for k in range(1, n + 1):
                draws = [any(drawn) for drawn in combinations(marks, k)]
                assert pass_at(n, right, k) == pytest.approx(sum(draws) / len(draws))


@pytest.mark.parametrize(("n", "right", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_pass_at_k_refuses_what_means_nothing(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="means nothing"):
        pass_at(n, right, k)


def test_the_curve_goes_up_to_the_fewest_answers() -> None:
    assert pass_curve([(4, 2), (6, 0)]) == pytest.approx({1: 0.25, 2: (1 - 1 / 6) / 2, 4: 0.5})
    assert list(pass_curve([(6, 1)])) == [1, 2, 4, 6]


def vote(*answers: str, gold: str = "8000") -> float:
    rows = [row("q", answer=answer, sample=at) for at, answer in enumerate(answers)]
    return majority(rows, [answer.replace(",", "") == gold for answer in answers])


def test_the_majority_counts_answers_that_say_the_same_together() -> None:
    assert vote("8,000", "8000", "7") == 1
    assert vote("7", "7.0", "8000") == 0
    assert vote("7", "8000") == 0.5  # a tie, broken by a coin
    assert vote("1", "2", "8000", "8,000") == 1
    assert vote("", "", "8000") == 1  # silence is no vote
    assert vote("", "") == 0


def test_several_samples_are_scored_beside_the_first_one() -> None:
    outcomes = {"q0": ["right", "wrong", "right"], "q1": ["wrong", "wrong", "right"]}
    samples = [
        row(key, outcome, sample=at, answer="42" if outcome == "right" else str(at))
        for key, drawn in outcomes.items() for at, outcome in enumerate(drawn)
    ]  # fmt: skip
    score = summarize(samples, ["q0", "q1"])
    assert (score.correct, score.samples, score.n) == (1, 3, 2)
    assert score.pass_at == pytest.approx({1: 0.5, 2: (1 + 2 / 3) / 2, 3: 1.0})
    assert score.majority == pytest.approx((1 + 1 / 3) / 2)
    report = build_report(asked(2), {"base": samples, "student": samples})
    assert "student, 3 samples: pass@1 50 %, pass@2 83 %, pass@3 100 %, maj@3 67 %" in shown(report)
    assert "0.66" in tabular(report, "csv")
    single = summarize([row("q0")], ["q0"])
    assert (single.samples, single.pass_at, single.majority) == (1, {}, None)
