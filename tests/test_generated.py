"""What generated questions promise: repeatable, as many as asked for, and apart from the held-out ones."""

import os
import subprocess
import sys

import pytest

from cotdistill.errors import DataError, SetupError
from cotdistill.generated import Task, chance_rate, generate, operands, prove_disjoint
from cotdistill.overlap import words
from cotdistill.question import Question

SUMS = Task("chain_sum", 30, {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1})
MIXED = [SUMS, Task("leg_counting", 20), Task("family_relationships", 20), Task("spell_backward", 10)]


def q(text: str, gold: str | None = None) -> Question:
    return Question(text, text, gold)


def test_sets_are_full_repeatable_and_without_duplicates() -> None:
    questions = generate(MIXED, seed=3)
    assert len(questions) == 80
    assert [question.category for question in questions[29:79:10]] == [
        "chain_sum", "leg_counting", "leg_counting", "family_relationships", "family_relationships"
    ]  # fmt: skip
    assert len({question.id for question in questions}) == len({words(question) for question in questions}) == 80
    assert all(question.id.startswith(f"{question.category}-") and question.gold for question in questions)
    assert questions[-1].kind == "text"
    assert generate(MIXED, seed=3) == questions
    assert generate(MIXED, seed=4) != questions


def test_a_set_is_the_same_in_another_process() -> None:
    code = (
        "from cotdistill.generated import Task, generate\n"
        "print([q.id for q in generate([Task('chain_sum', 5), Task('family_relationships', 5)], seed=3)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(outputs) == 1


def test_neighbouring_seeds_do_not_share_items() -> None:
    wide = [Task("chain_sum", 200, {"min_digits": 4, "max_digits": 4, "min_terms": 4, "max_terms": 4})]
    one, two = ({words(question) for question in generate(wide, seed=seed)} for seed in (7, 8))
    assert not one & two


def test_training_excludes_held_out_words_and_operands_even_reordered() -> None:
    held_out = generate([SUMS], seed=1)
    train = generate([SUMS], seed=2, exclude=held_out)
    keys = {operands(question.text) for question in held_out}
    assert not keys & {operands(question.text) for question in train}
    unguarded = generate([SUMS], seed=2)
    assert keys & {operands(question.text) for question in unguarded}  # otherwise this test proves nothing
    proof = prove_disjoint(train, held_out)
    assert (proof.train, proof.held_out, proof.shared_texts, proof.shared_operands) == (30, 30, 0, 0)
    with pytest.raises(DataError, match="held-out questions share"):
        prove_disjoint(unguarded, held_out)


def test_questions_without_operands_are_compared_by_words() -> None:
    task = [Task("spell_backward", 40)]
    held_out = generate(task, seed=1)
    train = generate(task, seed=2, exclude=held_out)
    assert prove_disjoint(train, held_out).without_operands > 0
    with pytest.raises(DataError):
        prove_disjoint([*train, held_out[0]], held_out)


def test_a_used_up_task_is_an_error_and_not_a_smaller_set() -> None:
    tiny = Task("chain_sum", 60, {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    held_out = generate([tiny], seed=1)
    with pytest.raises(SetupError, match=r"chain_sum gave \d+ of 60 new questions"):
        generate([tiny], seed=2, exclude=held_out)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("chain_summ", 3), "no task 'chain_summ'; near: chain_sum"),
        (Task("chain_sum", 3, {"terms": 2}), "config is refused .*terms"),
        (Task("chain_sum", 3, {"min_terms": 5, "max_terms": 2}), "config is refused"),
        (Task("chain_sum", 3, {"seed": 2}), "may not hold seed"),
        (Task("chain_sum", 0), "at least 1"),
        (Task("graph_color", 3), "no single right answer"),
        (Task("word_ladder", 3), "in every process"),
    ],
)
def test_a_bad_task_is_one_sentence(task: Task, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        generate([task], seed=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 6 + 0 - 1 + 8?", ("0", "1", "6", "8")),
        ("Calculate 8 - 6 + (-1) * 0.", ("0", "1", "6", "8")),
        ("Compute $1,500.50 or 007 at 5²", ("7", "1500.5", "2", "5")),
        ("Is 0x1F more than 31?", ("0x1f", "31")),
        ("A coin is heads up. Skylar flips it. Then Anne-Marie's coin, and Zoë's.", ("Anne-Marie", "Skylar", "Zoë")),
        ("1. All humans are chefs\n2. No chefs are DJs", ("DJs",)),
        ("How many apples are there?", ()),
        ("6 and 6", ("6", "6")),
    ],
)
def test_operands_are_the_numbers_and_names_in_any_order(text: str, expected: tuple[str, ...]) -> None:
    assert operands(text) == tuple(sorted(expected))


def test_chance_is_the_share_of_the_most_common_gold() -> None:
    assert chance_rate([q("a", "Yes"), q("b", "yes "), q("c", "no"), q("d")]) == pytest.approx(2 / 3)
    assert chance_rate([q("a")]) == chance_rate([]) == 0
