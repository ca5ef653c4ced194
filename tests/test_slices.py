from cotdistill.question import Question
from cotdistill.reporting.slices import slices
from cotdistill.statistics import mcnemar


def asked(n: int) -> list[Question]:
    return [
        Question(f"q{i}", "x" * (10 + i), "yes" if i % 4 == 0 else "7", category="ages" if i < 6 else None)
        for i in range(n)
    ]


def test_slices_of_one_way_hold_every_question_once() -> None:
    right = {"base": [i % 2 == 0 for i in range(24)], "student": [i % 3 == 0 for i in range(24)]}
    found = slices(asked(24), right)
    for by in ("category", "kind", "length"):
        parts = [part for part in found if part.by == by]
        assert sum(part.n for part in parts) == 24
        assert sum(part.correct["base"] for part in parts) == 12
        assert sum(part.gained - part.lost for part in parts) == 8 - 12
    assert [part.name for part in found if part.by == "length"] == [
        "up to 17 characters", "18 to 25 characters", "over 25 characters",
    ]  # fmt: skip
    assert {part.name for part in found if part.by == "kind"} == {"boolean", "number"}
    first = found[0]
    assert (first.by, first.name, first.n, first.gained, first.lost) == ("category", "ages", 6, 1, 2)
    assert first.p_value == mcnemar(2, 1)


def test_fewer_than_five_questions_are_no_slice() -> None:
    assert slices(asked(3), {"base": [True] * 3}) == []
    names = {(part.by, part.name) for part in slices(asked(16), {"base": [True] * 16})}
    assert ("kind", "number") in names
    assert ("kind", "boolean") not in names


def test_what_all_questions_share_is_no_slice_and_a_lone_model_has_no_gains() -> None:
    same = [Question(f"q{i}", "What?", "7", category="ages") for i in range(20)]
    assert slices(same, {"student": [True] * 20}) == []
    assert all(part.gained is None for part in slices(asked(20), {"student": [True] * 20}))
