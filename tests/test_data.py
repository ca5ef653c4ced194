"""The questions that ship in data/: counted, distinct, held apart, and readable by our own answer reader."""

import json
import re
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data"
FILES = ("raw_questions.jsonl", "test_questions.jsonl", "few_shot.jsonl")
README_ROWS = [
    "What is 15% of 240?",
    "If a train travels 120 km in 2 hours, what is its average speed?",
    "Solve for x: 2x + 5 = 13",
]
EQUATION = re.compile(r"(-?[\d.]*\d) ([-+*/]) ([\d.]*\d) = (-?[\d.]*\d)")
OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def words(question: str) -> tuple[str, ...]:
    """Letters and numbers alone, so that neither case nor punctuation makes two questions of one."""
    return tuple(re.findall(r"\d+(?:[.:]\d+)*|[^\W\d_]+", question.casefold()))


def numbers(question: str) -> tuple[str, ...]:
    return tuple(sorted(word for word in words(question) if word[0].isdigit()))


def eight_grams(question: str) -> set[tuple[str, ...]]:
    spoken = words(question)
    return {spoken[i : i + 8] for i in range(len(spoken) - 7)}


def test_raw_questions_are_60_without_answers_and_start_with_the_readme_rows() -> None:
    raw = rows("raw_questions.jsonl")
    assert len(raw) == 60
    assert all(set(row) == {"question"} for row in raw)
    assert [row["question"] for row in raw[:3]] == README_ROWS


def test_test_questions_are_60_with_answer_and_category() -> None:
    held_out = rows("test_questions.jsonl")
    assert len(held_out) == 60
    assert all(set(row) == {"question", "answer", "category"} and all(row.values()) for row in held_out)
    # dealt in turn: any nine rows in a row from the start meet every family
    assert len({row["category"] for row in held_out[:9]}) == len({row["category"] for row in held_out}) == 9


@pytest.mark.parametrize("name", FILES)
def test_no_question_stands_twice_in_one_file(name: str) -> None:
    asked = [words(row["question"]) for row in rows(name)]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(("one", "other"), list(combinations(FILES, 2)))
def test_no_two_files_share_a_question_its_numbers_or_eight_words_in_a_row(one: str, other: str) -> None:
    ours = [row["question"] for row in rows(one)]
    theirs = [row["question"] for row in rows(other)]
    assert not {words(q) for q in ours} & {words(q) for q in theirs}
    assert all(numbers(q) for q in ours + theirs)
    assert not {numbers(q) for q in ours} & {numbers(q) for q in theirs}
    assert not set().union(*map(eight_grams, ours)) & set().union(*map(eight_grams, theirs))


def test_worked_examples_are_short_correct_equations_that_end_in_their_last_result() -> None:
    examples = rows("few_shot.jsonl")
    assert 2 <= len(examples) <= 3
    for row in examples:
        reasoning, answer = row["reasoning"].split("\nFinal Answer: ")
        steps = EQUATION.findall(reasoning)
        assert len(steps) == reasoning.count("=") > 0, "each equals sign belongs to a step checked here"
        for left, sign, right, result in steps:
            assert OPERATIONS[sign](Fraction(left), Fraction(right)) == Fraction(result)
        assert answer == steps[-1][3]
        assert len(re.findall(r"\.(?:\s|$)", reasoning)) <= 4
        assert not re.search(r"[\\#]|\*\*", reasoning)


def test_worked_examples_load_as_the_teacher_prompt_reads_them() -> None:
    from cotdistill.prompt import load_few_shot

    assert [shot.question for shot in load_few_shot(DATA / "few_shot.jsonl")] == [
        row["question"] for row in rows("few_shot.jsonl")
    ]


def test_every_gold_answer_is_readable() -> None:
    from cotdistill.question import load_questions
    from cotdistill.verdict import judge_gold

    questions = load_questions(DATA / "test_questions.jsonl")
    assert len(questions) == 60
    assert all(question.gold for question in questions)
    unreadable = {question.text: reason for question in questions if (reason := judge_gold(question))}
    assert unreadable == {}
