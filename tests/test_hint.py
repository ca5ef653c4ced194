"""A hint is in the teacher's prompt alone, and a trace that shows it does not teach."""

import pytest

from cotdistill.asking.hint import with_hint
from cotdistill.engines import Message
from cotdistill.question import Question
from cotdistill.reading.leak import tells
from cotdistill.trace import Trace
from cotdistill.verdict import judge

ASKED = Question("q", "What is 15% of 240?", "36")
GOOD = "15% is 0.15, and 0.15 * 240 = 36.\nFinal Answer: 36"


def hinted(text: str) -> Trace:
    return Trace("q#0", "q", ASKED.text, text, finish="stop", hinted=True)


def test_the_right_answer_is_shown_below_the_question_and_nowhere_else():
    prompt = (Message("system", "Think."), Message("user", ASKED.text))
    system, user = with_hint(prompt, "36")
    assert system == prompt[0]
    assert user.content.startswith(f"{ASKED.text}\n")
    assert "36" in user.content


def test_a_hinted_trace_teaches_only_where_that_was_asked_for():
    assert judge(hinted(GOOD), ASKED).status == "leaks"
    assert judge(hinted(GOOD), ASKED, hinted=True).status == "correct"
    assert judge(hinted(GOOD.replace("36", "37")), ASKED, hinted=True).status == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "As given, the answer is 36, which is 15% of 240.\nFinal Answer: 36",
        "We know the answer is 36, so 0.15 * 240 must be it.\nFinal Answer: 36",
        "The right answer is 36 because 0.15 * 240 = 36.\nFinal Answer: 36",
        "15% of 240 is 0.15 * 240. Since the answer is 36, we are done.\nFinal Answer: 36",
        "0.15 * 240 = 36. This matches the given answer.\nFinal Answer: 36",
        "You said it is 36, and indeed 0.15 * 240 = 36.\nFinal Answer: 36",
        "By the hint we get to 0.15 * 240 = 36.\nFinal Answer: 36",
        "To reach the right answer we take 0.15 * 240 = 36.\nFinal Answer: 36",
        "It is 36.\nFinal Answer: 36",
        "Final Answer: 36",
    ],
)
def test_a_text_that_lets_on_that_it_was_told_is_a_leak(text):
    verdict = judge(hinted(text), ASKED, hinted=True)
    assert verdict.status == "leaks", verdict
    assert tells(GOOD) is None


def test_words_of_the_question_may_be_said_again():
    assert tells("Read the hint on page 3 and the page after it: 2 pages.\nAnswer: 2", "The hint is on which page?") is None
    asked = Question("q", "The hint is on page 3, the answer one page on. Where?", "4")
    text = "The hint is on page 3, so one page on it is 3 + 1 = 4.\nFinal Answer: 4"
    trace = Trace("q#0", "q", asked.text, text, finish="stop", hinted=True)
    assert judge(trace, asked, hinted=True).status == "correct"
