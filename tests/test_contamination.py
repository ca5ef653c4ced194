"""What a test set asks must not be taught, and a pattern that all rows share is no proof that it is."""

import random

import msgspec
import pytest

from cotdistill.judging.contamination import Contamination, Hit
from cotdistill.question import Question

TEST = [
    Question("t1", "Tom has 3 apples and buys 4. How many apples has he now?"),
    Question("t2", "Which is a fruit?", choices=("kale", "pear")),
]
OTHER = [Question(f"o{n}", f"What is {n} times {n + 1}?") for n in range(50)]


def asked(text: str, **more: object) -> Question:
    return Question("q", text, **more)


@pytest.mark.parametrize(
    "text",
    [
        "Tom has 3 apples and buys 4. How many apples has he now?",
        "tom has 3 APPLES,  and buys 4 … how many apples has he now",
        "Tom has ３ apples and buys 4.\nHow many apples has he now?",
    ],
)
def test_a_test_question_is_found_whatever_its_case_punctuation_and_spelling(text):
    hit = Contamination(TEST, OTHER).exact(asked(text))
    assert hit == Hit("q", "t1")
    assert str(hit) == "q is test question t1"


@pytest.mark.parametrize(
    "text",
    [
        "Tom has 3 apples and buys 5. How many apples has he now?",
        "Tom has 3 apples and buys -4. How many apples has he now?",
        "Tom has 34 apples and buys. How many apples has he now?",
        "Tom has 3 apples and buys 4.",
    ],
)
def test_other_numbers_signs_or_half_a_question_are_another_question(text):
    assert Contamination(TEST, OTHER).exact(asked(text)) is None


def test_choices_belong_to_a_question_but_a_hand_made_trace_may_lack_them():
    found = Contamination(TEST, OTHER)
    assert found.exact(asked("Which is a fruit?")) == Hit("q", "t2")
    assert found.exact(asked("Which is a fruit?", choices=("kale", "pear"))) == Hit("q", "t2")
    assert found.exact(asked("Which is a fruit?", choices=("leek", "plum"))) is None


def test_a_shared_run_of_words_is_named():
    near = asked("Ann saw that Tom has 3 apples and buys 4. What will he do?")
    assert Contamination(TEST, [*OTHER, near], ngram=6).ngram(near) == Hit("q", "t1", "tom has 3 apples and buys")
    assert Contamination(TEST, [*OTHER, near], ngram=8).ngram(near) is None


def coin_flips(count: int, seed: int) -> list[Question]:
    """Rows written to one pattern, as in the coin flip task of Wei et al. (2022, arXiv:2201.11903)."""
    draw = random.Random(seed)
    names = [first + second for first in ("Al", "Be", "Ca", "Do", "Er") for second in ("ba", "ce", "di", "fo", "gu")]
    rows = []
    for n in range(count):
        acts = [f"{name} {draw.choice(['flips', 'does not flip'])} the coin." for name in draw.sample(names, 2)]
        text = f"A coin is heads up. {' '.join(acts)} Is the coin still heads up? Note that flip means reverse."
        rows.append(Question(f"c{seed}-{n}", text))
    return rows


def test_a_pattern_is_no_contamination_where_a_plain_rule_would_remove_every_row():
    train, test = coin_flips(300, 1), coin_flips(100, 2)
    found = Contamination(test, train, ngram=8)
    plain = Contamination(test, [], ngram=8)  # has seen no training row, so knows no pattern
    assert sum(plain.ngram(question) is not None for question in train) == len(train)
    assert sum(found.ngram(question) is not None for question in train) < 0.2 * len(train)


def test_a_copy_with_a_changed_word_is_found_amid_a_pattern():
    secret = "Zoltan balances nine copper bells on a wobbly stool before midnight. Is the coin still heads up?"
    train = [*coin_flips(300, 1), asked(secret.replace("midnight", "noon"))]
    hit = Contamination([Question("t9", secret)], train).ngram(train[-1])
    assert hit is not None
    assert (hit.test_id, hit.shared) == ("t9", "zoltan balances nine copper bells on a wobbly")


def test_two_copies_in_a_small_set_are_no_pattern_and_repeats_of_one_question_count_once():
    near = [asked(f"Tom has 3 apples and buys 4. How many apples has he in {year}?") for year in (1990, 1991)]
    found = Contamination(TEST, [*near, *near, *near])
    assert all(found.ngram(question) for question in near)
    third = asked("Tom has 3 apples and buys 4. How many apples has he in 1992?")
    assert Contamination(TEST, [*near, third]).ngram(third) is None


def test_a_hit_survives_being_written():
    hit = Hit("q", "t1", "tom has 3")
    assert msgspec.json.decode(msgspec.json.encode(hit), type=Hit) == hit
