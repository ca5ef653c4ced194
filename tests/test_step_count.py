"""Steps are what is calculated, else what is said on the way to the answer."""

import time

import pytest

from cotdistill.reading.step_count import step_count


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("42 + 32 = 74.\n74 - 35 = 39.\nFinal Answer: 39", 2),
        ("First, 42 + 32 = 74. As I said, 42+32 = 74, and 74 - 35 = 39. Done. Really. Yes.", 2),
        ("16 - 3 = <<16-3=13>>13 eggs", 1),
        ("2 + 3 = 5 = 10/2", 2),
        ("Lu flips: heads -> tails.\nKarl does not flip: tails -> tails.\nFinal Answer: no", 2),
        ("Lu flips it. Karl does not. So the answer is no.", 2),
        ("1. Take the last letter of Amy, y.\n2. Take the last letter of Bo, o.\n**Final Answer:** yo", 2),
        ("Final Answer: 36", 0),
        ("So it is \\boxed{36}", 0),
        ("36\n#### 36", 0),
        ("", 0),
    ],
)
def test_steps_are_counted_as_written(text, steps):
    assert step_count(text) == steps


@pytest.mark.parametrize("piece", [".", " ", ". ", "answer*", "a. ", "\n", "1 + 1 = 2. ", "="])
def test_hostile_text_is_counted_in_linear_time(piece):
    start = time.perf_counter()
    step_count(piece * (200_000 // len(piece)))
    assert time.perf_counter() - start < 5
