"""Where nobody knows the answer, the majority of a teacher's samples decides."""

import time

import pytest

from cotdistill.judging.vote import vote
from cotdistill.question import Question
from cotdistill.trace import Trace
from cotdistill.verdict import judge

ASKED = Question("q", "How fast is the train?")


def votes(*texts: str, question: Question = ASKED) -> list[tuple[str, float | None]]:
    """Status and share of traces, each ending with the marker and its text, after a vote."""
    written = [f"Way {n}.\nFinal Answer: {text}" for n, text in enumerate(texts)]
    return polled(*written, question=question)


def polled(*written: str, question: Question = ASKED) -> list[tuple[str, float | None]]:
    traces = [Trace(f"q#{n}", "q", ASKED.text, text, finish="stop") for n, text in enumerate(written)]
    verdicts = vote(question, [(trace, judge(trace, question)) for trace in traces])
    return [(verdict.status, verdict.vote_share) for verdict in verdicts]


def test_the_majority_agrees_and_the_rest_disagrees_with_shares_recorded():
    assert votes("36", "36", "35", "36") == [("agrees", 0.75), ("agrees", 0.75), ("disagrees", 0.25), ("agrees", 0.75)]


@pytest.mark.parametrize(
    "texts",
    [("36", "35", "36", "35"), ("36", "36", "35", "34"), ("1", "2", "3")],
)
def test_a_tie_or_a_mere_plurality_keeps_none(texts):
    assert {status for status, _ in votes(*texts)} == {"disagrees"}


def test_four_hundred_different_answers_are_counted_in_a_moment():
    start = time.thread_time()
    assert {status for status, _ in votes(*(f"{n} apples" for n in range(400)))} == {"disagrees"}
    assert time.thread_time() - start < 0.5


@pytest.mark.parametrize(
    "texts", [("36", "36.0", "$36"), ("1/2", "0.5", "2/4"), ("Yes", "yes.", "YES"), ("36 apples", "36", "x = 36")]
)
def test_answers_are_compared_by_meaning_and_not_as_strings(texts):
    assert votes(*texts) == [("agrees", 1.0)] * 3


def test_units_that_contradict_each_other_never_make_one_majority_whatever_the_order():
    assert votes("60", "60 km/h", "60 mph") == [("disagrees", 1.0), ("disagrees", 0.6667), ("disagrees", 0.6667)]
    for texts in (("60 km/h", "60", "60 mph", "60 km/h"), ("60 mph", "60 km/h", "60 km/h", "60")):
        kept = dict(zip(texts, votes(*texts), strict=True))
        assert {text for text, (status, _) in kept.items() if status == "agrees"} == {"60", "60 km/h"}
    plain_ones = votes("60", "60", "60", "60 km/h", "60 mph")
    assert [status for status, _ in plain_ones] == ["agrees"] * 3 + ["disagrees"] * 2


def test_a_declared_kind_and_choices_decide_how_votes_are_read():
    asked = Question("q", "Which?", choices=("30", "40"))
    assert [status for status, _ in votes("(B)", "B", "40", "A", question=asked)] == ["agrees"] * 3 + ["disagrees"]


def test_identical_texts_are_one_vote_whatever_their_spacing():
    same = "One way.\nFinal Answer: 35"
    outvoted = polled(same, same + "\n", same.replace(" ", "  "), "Two.\nFinal Answer: 36", "Three.\nFinal Answer: 36")
    assert outvoted == [("disagrees", 0.3333)] * 3 + [("agrees", 0.6667)] * 2


def test_fewer_than_three_different_votes_decide_nothing_and_say_so():
    same = "One way.\nFinal Answer: 35"
    assert polled(same, same, same) == [("unchecked", None)] * 3
    trace = Trace("q#0", "q", ASKED.text, same, finish="stop")
    (verdict,) = vote(ASKED, [(trace, judge(trace, ASKED))])
    assert (verdict.status, verdict.reason) == ("unchecked", "a majority needs 3 different traces with an answer; here are 1")


def test_only_readable_answers_vote_and_false_steps_do_but_never_teach():
    assert polled("36", "Final Answer: 36", "So 3 + 3 = 6.\nFinal Answer: 36", "Hm. Final Answer: 36", "I give up.") == [
        ("no_answer", None), ("agrees", 1.0), ("agrees", 1.0), ("agrees", 1.0), ("no_answer", None)
    ]  # fmt: skip
    false_step = "3 + 3 = 7.\nFinal Answer: "
    assert [s for s, _ in polled(false_step + "36", "a\nFinal Answer: 36", "b\nFinal Answer: 36")] == [
        "bad_step", "agrees", "agrees"
    ]  # fmt: skip
    assert polled(false_step + "1", "a\nFinal Answer: 36", "b\nFinal Answer: 36")[0] == ("disagrees", 0.3333)


def test_gold_is_never_outvoted():
    known = Question("q", ASKED.text, "36")
    assert votes("35", "35", "36", question=known) == [("wrong", None), ("wrong", None), ("correct", None)]
