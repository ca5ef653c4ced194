"""Of a question's sound traces: no two that say the same, and at most K that differ most."""

import random
from itertools import pairwise

import pytest

from cotdistill.judging.selection import NEAR, drop_duplicates, keep, shingles, similarity
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict

WORDS = (
    "first we take the price of one shirt which is twelve dollars and then we multiply it by the five shirts that "
    "were bought so the whole costs sixty dollars before the discount of ten dollars is taken off"
)


def judged(*texts: str, status: str = "correct") -> list[tuple[Trace, Verdict]]:
    return [(Trace(f"q#{n}", "q", "?", text), Verdict(f"q#{n}", status)) for n, text in enumerate(texts)]


def statuses(verdicts: list[Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def test_the_same_text_teaches_once_and_the_reason_names_the_first():
    verdicts = drop_duplicates(judged("5 + 5 = 10", "10 - 0 = 10", "5 + 5 = 10\n"))
    assert statuses(verdicts) == ["correct", "correct", "duplicate"]
    assert verdicts[2].reason == "the same text as q#0"


@pytest.mark.parametrize(
    "second",
    [WORDS.upper(), WORDS.replace(" and ", ", and "), WORDS + ".", WORDS.replace("five", "six"), "So " + WORDS],
)
def test_case_punctuation_or_one_word_in_thirty_make_no_difference(second):
    verdicts = drop_duplicates(judged(WORDS, second))
    assert statuses(verdicts) == ["correct", "duplicate"]
    assert verdicts[1].reason == "nearly the same text as q#0"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("15% is 0.15, and 0.15 * 240 = 36.", "10% is 24, 5% is 12, 24 + 12 = 36."),
        ("3 + 4 = 7", "4 + 3 = 7"),
        ("5 apples", "6 apples"),
        (WORDS, " ".join(reversed(WORDS.split()))),
    ],
)
def test_other_numbers_or_another_order_are_another_trace(one, other):
    assert statuses(drop_duplicates(judged(one, other))) == ["correct", "correct"]


def test_traces_that_do_not_teach_are_no_duplicates_and_shadow_none():
    pairs = [*judged(WORDS, status="wrong"), *judged(WORDS), *judged(WORDS, status="bad_step")]
    assert statuses(drop_duplicates(pairs)) == ["wrong", "correct", "bad_step"]


def test_the_index_finds_the_same_near_duplicates_as_comparing_all_pairs():
    random.seed(3)
    texts = []
    for _ in range(150):
        words = random.choice(texts).split() if texts and random.random() < 0.7 else random.choices("abcdefghij", k=40)
        words[random.randrange(len(words))] = random.choice("klmnop")
        texts.append(" ".join(words))
    kept: list[int] = []
    expected = []
    for at, text in enumerate(texts):
        near = any(similarity(shingles(texts[other]), shingles(text)) >= NEAR for other in kept)
        expected.append("duplicate" if near else "correct")
        kept += [] if near else [at]
    assert statuses(drop_duplicates(judged(*texts))) == expected
    assert 20 < len(kept) < 130


def test_at_most_k_stay_and_they_are_the_most_different():
    halves = "take half of forty which is twenty", "take half of forty so that is twenty", "half of forty is twenty"
    verdicts = keep(judged(*halves, "count up by fives until the end"), 2)
    assert statuses(verdicts) == ["correct", "not_selected", "not_selected", "correct"]
    assert verdicts[1].reason == "2 others of this question differ more"


def test_selection_keeps_the_order_and_the_first_and_is_the_same_every_time():
    texts = ["a b c d e f", "a b c d e g", "x y z", "a b c h i j", "k l m n o"]
    first, again = (statuses(keep(judged(*texts), 3)) for _ in range(2))
    assert first == again == ["correct", "not_selected", "correct", "not_selected", "correct"]
    assert statuses(keep(judged(*texts), 1)) == ["correct"] + ["not_selected"] * 4
    assert statuses(keep(judged(*texts), 9)) == ["correct"] * 5


def test_more_allowed_traces_only_add_to_the_chosen():
    random.seed(5)
    texts = [" ".join(random.choices("abcdef", k=12)) for _ in range(20)]
    chosen = [{v.trace_id for v in keep(judged(*texts), k) if v.status == "correct"} for k in range(1, 20)]
    assert all(few < more for few, more in pairwise(chosen))


LONG = "half of forty is twenty and so on and so forth until the very end"
SUMS = "1 + 1 = 2. 2 + 1 = 3. 3 + 1 = 4.", "We put two beside two and see that 2 + 2 = 4.", LONG, "2*2=4, 4*1=4"


@pytest.mark.parametrize(
    ("prefer", "stay", "reason"),
    [
        ("short", {3}, "1 others of this question are shorter"),
        ("few_steps", {1}, "1 others of this question take fewer steps or are shorter"),
        ("likely", {2}, "1 others of this question are likelier to the student"),
        ("different", {0}, "1 others of this question differ more"),
    ],
)
def test_the_preferred_stay_and_the_reason_says_why_the_others_do_not(prefer, stay, reason):
    verdicts = keep(judged(*SUMS), 1, prefer, nats=lambda text: {LONG: 0.5}.get(text, 1.0))
    assert {at for at, verdict in enumerate(verdicts) if verdict.status == "correct"} == stay
    assert {verdict.reason for verdict in verdicts if verdict.status == "not_selected"} == {reason}


def test_fewer_steps_count_before_fewer_words_and_the_earlier_stays_at_a_tie():
    texts = "1 + 1 = 2. 2 + 1 = 3.", "We see at once that 1 + 2 = 3.", "There it is, at long last: 2 + 1 = 3."
    assert statuses(keep(judged(*texts), 1, "few_steps")) == ["not_selected", "correct", "not_selected"]
    assert statuses(keep(judged("a b", "c d", "e f"), 2, "short")) == ["correct", "correct", "not_selected"]
    assert statuses(keep(judged("a b", "c d", "e f"), 2, "likely")) == ["correct", "correct", "not_selected"]


def test_only_what_may_teach_is_chosen_among():
    pairs = [*judged("short but wrong", status="wrong"), *judged("somewhat longer", "the longest of them all")]
    assert statuses(keep(pairs, 1, "short")) == ["wrong", "correct", "not_selected"]


def test_a_share_of_what_stays_is_from_the_shorter_half_and_the_rest_from_the_longer():
    texts = [f"{letter} " * words for letter, words in zip("abcdefgh", (8, 1, 7, 2, 6, 3, 5, 4), strict=True)]
    verdicts = keep(judged(*texts), 4, "short", short_share=0.75)
    assert {at for at, verdict in enumerate(verdicts) if verdict.status == "correct"} == {1, 3, 5, 6}
    assert verdicts[0].reason == "3 others of the shorter half and 1 of the longer were taken"
    only_long = keep(judged(*texts), 4, "likely", short_share=0.0)
    assert {at for at, verdict in enumerate(only_long) if verdict.status == "correct"} == {0, 2, 4, 6}


def test_the_middle_one_of_an_odd_number_is_of_the_shorter_half():
    verdicts = keep(judged("a", "b b", "c c c"), 2, "short", short_share=1.0)
    assert verdicts[2].reason == "2 others of the shorter half and 0 of the longer were taken"


def test_a_half_that_is_too_small_is_made_up_for_by_the_other():
    for share in (0.0, 1.0):
        assert statuses(keep(judged("a", "b b", "c c c"), 2, "short", short_share=share)).count("correct") == 2
    assert statuses(keep(judged("a", "b b"), 2, "short", short_share=0.0)) == ["correct", "correct"]


def test_with_one_trace_a_question_the_share_is_that_of_questions():
    short = 0
    for n in range(1000):
        pairs = [(Trace(f"q{n}#{i}", f"q{n}", "?", text), Verdict(f"q{n}#{i}", "correct"))
                 for i, text in enumerate(("all of this is long", "short"))]  # fmt: skip
        found = statuses(keep(pairs, 1, short_share=0.8))
        assert found == statuses(keep(pairs, 1, short_share=0.8))
        short += found == ["not_selected", "correct"]
    assert 760 < short < 840


def test_shingles_count_words_and_numbers_alone():
    assert shingles("It's 1,000.50 - or 3:05!") == {("it", "s", "1,000.50"), ("s", "1,000.50", "or"), ("1,000.50", "or", "3:05")}
    assert shingles("36") == {("36",)}
    assert shingles("!?") == frozenset()
    assert similarity(shingles("!?"), shingles("...")) == 0


