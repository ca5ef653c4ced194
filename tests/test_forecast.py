"""What a sample says about the whole recipe: tokens, time, money, and the questions that are needed."""

import random

import msgspec
import pytest

from cotdistill.engines.server import Server
from cotdistill.learning.relation import Tokens, relation
from cotdistill.plans.forecast import Range, Training, Work, compared, compared_text, forecast, mean
from cotdistill.power import expected_changes, needed_questions, power
from cotdistill.statistics import Paired, decide, mcnemar

TRAINING = Training(Range(80, 60, 95), 2, [100, 100], 0.01)


def test_a_stage_costs_what_its_sample_did_times_its_rows():
    server = Server("http://here/v1", price_prompt=1.0, price_completion=10.0)
    found = forecast([Work("generate", 100, [50, 50], [20, 40], 0.5), TRAINING,
                      Work("evaluate/base", 10, [9, 9], [5, 5], 1.0)], server)  # fmt: skip
    generate, train, base = found.stages
    assert [stage.stage for stage in found.stages] == ["generate", "train", "evaluate/base"]
    assert (generate.tokens.expected, generate.seconds.expected) == (8000, 1500)
    assert generate.tokens.low < 8000 < generate.tokens.high
    assert generate.money is not None
    assert generate.money.expected == pytest.approx((5000 * 1 + 3000 * 10) / 1e6)
    assert (train.tokens.expected, train.seconds.expected) == (16000, 320)
    assert (train.tokens.low, train.tokens.high) == (12000, 19000)
    assert base.money is None
    assert found.tokens.expected == 8000 + 16000 + 140
    assert found.money == generate.money


def test_a_teacher_on_a_server_is_paid_for_its_evaluation_too():
    server = Server("http://here/v1", price_prompt=1.0, price_completion=10.0)
    work = [Work(name, 10, [9, 9], [5, 5], 1.0) for name in ("evaluate/teacher", "evaluate/unseen/teacher", "evaluate/student")]
    *teacher, student = forecast(work, server).stages
    assert [stage.money.expected for stage in teacher] == [pytest.approx((90 * 1 + 50 * 10) / 1e6)] * 2
    assert student.money is None


def test_without_prices_there_is_no_money():
    work = [Work("generate", 10, [1, 1], [1, 1], 1.0), TRAINING]
    assert forecast(work, Server("http://here/v1")).money is None
    assert forecast(work, None).money is None


def test_a_larger_sample_gives_a_narrower_range_and_one_value_a_wide_one():
    few, many = mean([10, 30]), mean([10, 30] * 20)
    assert few.expected == many.expected == 20
    assert few.low < many.low < 20 < many.high < few.high
    assert mean([20]) == Range(20, 10, 40)
    assert mean([]) == Range(0, 0, 0)


def test_the_interval_of_the_mean_holds_the_mean_of_long_tailed_lengths_nine_times_in_ten():
    chance = random.Random(1)
    draws = [mean([chance.lognormvariate(4, 0.5) for _ in range(24)]) for _ in range(1000)]
    true = 2.718281828 ** (4 + 0.125)
    assert sum(one.low <= true <= one.high for one in draws) >= 900


def test_forecast_and_outcome_are_told_together_for_the_stages_that_were_done():
    found = forecast([Work("generate", 100, [50, 50], [20, 40], 0.5), TRAINING], None)
    [outcome] = compared(found, {"generate": (1400.0, 7900), "evaluate/other": (1.0, 1)})
    assert (outcome.stage, outcome.seconds.expected, outcome.took_seconds, outcome.took_tokens) == ("generate", 1500, 1400.0, 7900)
    assert compared_text(outcome) == ["6.1–62.0 min", "23.3 min ", "6,040–9,960", "7,900 "]
    late = msgspec.structs.replace(outcome, took_seconds=4000.0, took_tokens=1)
    assert compared_text(late)[1::2] == ["66.7 min*", "1*"]


# The questions that are needed


def test_the_power_is_that_of_the_verdict_by_simulation():
    chance = random.Random(2)
    gains, losses, questions = 0.2, 0.05, 60
    better = 0
    for _ in range(4000):
        rolled = [chance.random() for _ in range(questions)]
        gained, lost = sum(x < gains for x in rolled), sum(gains <= x < gains + losses for x in rolled)
        better += decide(Paired(0, lost, gained, questions - gained - lost, mcnemar(lost, gained))) == "better"
    assert power(questions, gains, losses) == pytest.approx(better / 4000, abs=0.025)


def test_the_questions_needed_have_the_power_and_fewer_do_not():
    needed = needed_questions(0.2, 0.05)
    assert needed is not None
    assert power(needed, 0.2, 0.05) >= 0.8 > power(needed - 3, 0.2, 0.05)


def test_where_there_is_no_gain_no_number_is_enough():
    assert needed_questions(0.05, 0.05) is None
    assert needed_questions(0.0, 0.0) is None
    assert power(100, 0.0, 0.0) == 0.0
    assert needed_questions(0.011, 0.010) is None


def test_half_the_gap_is_expected_and_some_losses_even_where_the_sample_has_none():
    gains, losses = expected_changes(Paired(4, 0, 12, 8, 0.0))
    assert gains == 0.25
    assert 0 < losses < 0.02


# Vocabularies


WORDS = {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("teacher", "kind", "shared"),
    [
        (Tokens(WORDS, {"<end>": 3}), "same", 4),
        (Tokens(WORDS, {"<stop>": 3}), "alignable", 3),
        (Tokens({**WORDS, "d": 4}, {"<end>": 3}), "alignable", 4),
        (Tokens({"a": 0, "b": 2, "c": 1}, {"<end>": 3}), "different", 2),
        (None, "unknown", 0),
    ],
)
def test_a_pair_of_vocabularies_is_the_same_alignable_or_different(teacher, kind, shared):
    found = relation(Tokens(WORDS, {"<end>": 3}), teacher)
    assert (found.kind, found.shared) == (kind, shared)
