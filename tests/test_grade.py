"""One response, read leniently and strictly."""

import pytest

from cotdistill.grade import Grade, grade
from cotdistill.question import Question

ASKED = Question("q", "What is 15% of 240?", "36")


@pytest.mark.parametrize(
    ("response", "finish", "expected"),
    [
        ("15% is 36.\nFinal Answer: 36", "stop", Grade("36", "marker", True, "marker", True)),
        ("15% of 240 gives us exactly 36.", "stop", Grade("36", "last_number", True, "no_answer", False)),
        ("36", "stop", Grade("36", "bare", True, "no_answer", False)),
        ("Final Answer: 35, not 36", "stop", Grade("35, not 36", "ambiguous", False, "ambiguous", False)),
        ("Final Answer: 36%", "stop", Grade("36%", "ambiguous", False, "ambiguous", False)),
        ("Final Answer: 9**9**9", "stop", Grade("9**9**9", "too_complex", False, "too_complex", False)),
        ("I do not know.", "stop", Grade("", "no_answer", False, "no_answer", False)),
        ("15% of 240 is 36, so", "length", Grade("", "truncated", False, "truncated", False)),
        ("Final Answer: 36\nQuestion: and", "length", Grade("36", "marker", True, "marker", True)),
        ("", "error", Grade("", "error", False, "error", False)),
    ],
)  # fmt: skip
def test_a_response_gets_a_named_status_in_both_readings(response, finish, expected):
    assert grade(response, finish, ASKED) == expected


@pytest.mark.parametrize(("response", "finish"), [("Final Answer: 36", "stop"), ("", "error"), ("It is", "length")])
def test_without_gold_nothing_is_right_or_wrong(response, finish):
    marks = grade(response, finish, Question("q", "?"))
    assert marks.correct is None
    assert marks.correct_strict is None


def test_a_marked_wrong_answer_is_not_saved_by_the_lenient_reading():
    marks = grade("Final Answer: 35\nOr was it 36", "stop", ASKED)
    assert (marks.status, marks.correct) == ("marker", False)


def test_choices_and_declared_kinds_are_used():
    asked = Question("q", "?", "B", None, None, ("20 km/h", "40 km/h"))
    assert grade("Final Answer: 40 km/h", "stop", asked).correct
    assert grade("Final Answer: 1,234", "stop", Question("q", "?", "1, 234", "list")).correct
