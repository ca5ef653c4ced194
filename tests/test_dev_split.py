"""What is set aside to choose on: the same whenever it is drawn, and nothing that is learned from."""

import pytest

from cotdistill.dev_split import split
from cotdistill.errors import DataError
from cotdistill.question import Question
from cotdistill.settings.objective import AutoSettings


def questions(count: int, text: str = "What is {i} plus {j}?", gold: bool = True) -> list[Question]:
    return [Question(f"q{i}", text.format(i=i, j=i % 5), str(i) if gold else None) for i in range(count)]


def ids(part: list[Question]) -> list[str]:
    return [question.id for question in part]


def test_ids_and_seed_alone_decide():
    asked = questions(40)
    taught, dev = split(asked, AutoSettings(), 7, generated=False)
    assert (len(taught), len(dev)) == (30, 10)
    again = split(asked[::-1], AutoSettings(), 7, generated=False)
    assert set(ids(again[1])) == set(ids(dev))
    assert ids(dev) == [one for one in ids(asked) if one in set(ids(dev))]
    assert set(ids(split(asked, AutoSettings(), 8, generated=False)[1])) != set(ids(dev))


def test_no_more_than_max_dev_are_set_aside():
    assert len(split(questions(40), AutoSettings(max_dev=3), 0, generated=False)[1]) == 3


def test_the_same_question_in_other_spelling_stays_on_one_side():
    asked = questions(20) + [Question(f"w{i}", f"what is  {i} plus {i % 5}", str(i)) for i in range(20)]
    taught, dev = split(asked, AutoSettings(dev_share=0.5), 0, generated=False)
    assert {one[1:] for one in ids(taught)}.isdisjoint(one[1:] for one in ids(dev))
    assert len(dev) == 20


def test_generated_questions_with_the_same_operands_stay_on_one_side():
    asked = questions(20) + [Question(f"w{i}", f"What is {i % 5} minus {i}?", "0") for i in range(20)]
    taught, dev = split(asked, AutoSettings(dev_share=0.5), 0, generated=True)
    assert {one[1:] for one in ids(taught)}.isdisjoint(one[1:] for one in ids(dev))
    mixed = split(asked, AutoSettings(dev_share=0.5), 0, generated=False)
    assert not {one[1:] for one in ids(mixed[0])}.isdisjoint(one[1:] for one in ids(mixed[1]))


def test_questions_without_an_answer_are_never_chosen_on():
    asked = questions(20, gold=False) + [Question(f"g{i}", f"What is {i} times 3?", str(3 * i)) for i in range(20)]
    dev = split(asked, AutoSettings(dev_share=0.4), 0, generated=False)[1]
    assert len(dev) == 16
    assert all(question.gold for question in dev)


def test_too_few_to_choose_on_are_refused():
    with pytest.raises(DataError, match=r"20 questions at dev_share 0.25 give 0"):
        split(questions(20, gold=False), AutoSettings(), 0, generated=False)
    with pytest.raises(DataError, match=r"2 questions at dev_share 0.9 give 1"):
        split(questions(2), AutoSettings(dev_share=0.9), 0, generated=False)
