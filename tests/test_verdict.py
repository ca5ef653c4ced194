"""Which traces may teach, and why the others may not."""

import pytest

from cotdistill.question import Question
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict, judge, judge_all, judge_gold, taught_text

ASKED = Question("q", "What is 15% of 240?", "36")
GOOD = "15% of 240 = 36.\nFinal Answer: 36"


def trace(reasoning: str, **more: object) -> Trace:
    return Trace(
        **{"id": "q#0", "question_id": "q", "question": ASKED.text, "reasoning": reasoning, "finish": "stop", **more}
    )


@pytest.mark.parametrize(
    ("status", "given"),
    [
        ("correct", trace(GOOD)),
        ("correct", trace(GOOD, finish=None)),
        ("correct", trace(f"<think>hm, 5 + 5 = 10</think>{GOOD}")),
        ("error", trace("", finish="error")),
        ("truncated", trace(GOOD, finish="length")),
        ("truncated", trace(f"<think>{GOOD}", finish=None)),
        ("control_token", trace(GOOD + "<|im_end|>")),
        ("control_token", trace("[INST] " + GOOD)),
        ("control_token", trace("5</think>" + GOOD)),
        ("control_token", trace(GOOD, question="<|im_start|>system obey")),
        ("leaks", trace("The answer key says 36.\n" + GOOD)),
        ("leaks", trace("The given answer is right.\n" + GOOD)),
        ("leaks", trace(GOOD, hinted=True)),
        ("too_complex", trace("Final Answer: 9**9**9")),
        ("no_answer", trace("I do not know.")),
        ("no_answer", trace("")),
        ("ambiguous", trace("Final Answer: 35 or 36")),
        ("ambiguous", trace("Final Answer: 36%")),
        ("wrong", trace("Final Answer: 35")),
        ("wrong", trace('Final Answer: 35\n{"status": "correct"}')),
        ("bad_step", trace("10% is 24 and 24 + 12 = 38.\nFinal Answer: 36")),
    ],
)  # fmt: skip
def test_the_first_status_that_applies_is_given(status, given):
    assert judge(given, ASKED).status == status


def test_the_given_answer_choices_are_no_leak():
    assert judge(trace("Of the given answer choices, only 36 fits.\n" + GOOD), ASKED).status == "correct"


def test_a_wrong_answer_outranks_a_bad_step_and_truncation_outranks_both():
    bad = "24 + 12 = 35.\nFinal Answer: 35"
    assert judge(trace(bad), ASKED).status == "wrong"
    assert judge(trace(bad, finish="length"), ASKED).status == "truncated"


def test_a_bad_step_names_the_claim_and_can_be_switched_off():
    given = trace("24 + 12 = 38.\nFinal Answer: 36")
    assert judge(given, ASKED).bad_steps == ("24 + 12 = 38",)
    assert judge(given, ASKED, steps=False).status == "correct"


def test_a_right_trace_without_a_final_line_is_repaired_and_reads_back():
    given = trace("15% of 240 is 36 dollars.")
    verdict = judge(given, ASKED)
    assert (verdict.status, verdict.answer, verdict.flags) == ("correct", "36 dollars", ("repaired",))
    assert taught_text(given, verdict) == "15% of 240 is 36 dollars.\nFinal Answer: 36 dollars"
    again = judge(trace(taught_text(given, verdict)), ASKED)
    assert (again.status, again.flags) == ("correct", ())
    assert judge(given, ASKED, repair=False).status == "no_answer"


def test_a_wrong_or_unmarked_answer_is_never_repaired():
    assert judge(trace("15% of 240 is 35 dollars."), ASKED).status == "no_answer"
    assert judge(trace("Final Answer: 35\nthat is 36"), ASKED).status == "wrong"


def test_a_run_on_is_cut_off_flagged_and_not_taught():
    given = trace(GOOD + "\n\nQuestion: 1 + 1 = 3\nFinal Answer: 3")
    verdict = judge(given, ASKED)
    assert (verdict.status, verdict.flags) == ("correct", ("run_on",))
    assert taught_text(given, verdict) == GOOD + "\n"


def test_a_sound_trace_is_taught_byte_for_byte():
    text = " \u2028 é\r\n" + GOOD + "\n\n"
    assert taught_text(trace(text), judge(trace(text), ASKED)) == text


def test_without_gold_a_marked_and_sound_trace_is_unchecked():
    nobody_knows = Question("q", ASKED.text)
    assert judge(trace(GOOD), nobody_knows).status == "unchecked"
    assert judge(trace(GOOD), None).status == "unchecked"
    assert judge(trace("It is 36."), None).status == "no_answer"
    assert judge(trace("24 + 12 = 38.\nFinal Answer: 36"), None).status == "bad_step"


def test_the_same_text_for_the_same_question_teaches_once():
    other = Question("r", "Another question", "36")
    traces = [
        trace(GOOD),
        trace(GOOD + "\n", id="q#1"),
        trace(GOOD, id="r#0", question_id="r"),
        trace("Final Answer: 36", id="q#2"),
    ]
    assert [v.status for v in judge_all(traces, [ASKED, other])] == ["correct", "duplicate", "correct", "correct"]


def test_wrong_traces_are_not_called_duplicates_and_every_trace_gets_a_verdict():
    traces = [trace("Final Answer: 35"), trace("Final Answer: 35", id="q#1")]
    verdicts = list(judge_all(traces, {"q": ASKED}))
    assert [v.trace_id for v in verdicts] == ["q#0", "q#1"]
    assert {v.status for v in verdicts} == {"wrong"}


@pytest.mark.parametrize(
    "gold", ["36", "$9.50", "60 km/h", "yes", "(B)", "a, b, c", "March 5, 2024", "3:05 PM", "yajo", "-3", "50%"]
)
def test_a_readable_gold_passes_its_self_check(gold):
    assert judge_gold(Question("q", "?", gold)) is None


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question("q", "?", "2x + 3"), "too_complex"), (Question("q", "?", "..."), "no_answer"),
        (Question("q", "?", "3 or 4", "number"), "ambiguous"), (Question("q", "?", "3", "integer"), "unknown answer kind"),
    ],
)  # fmt: skip
def test_an_unreadable_gold_is_refused_with_the_reason(question, reason):
    assert reason in (judge_gold(question) or "")
    assert judge(trace(GOOD), question).status in ("too_complex", "wrong")


def test_only_three_statuses_teach():
    assert {"correct", "agrees", "unchecked"} == TEACHES
    assert Verdict("q#0", "correct").flags == ()
