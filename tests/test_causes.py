from typing import Any

import msgspec
import pytest

from cotdistill.prediction import Prediction
from cotdistill.report import build_report
from cotdistill.reporting.causes import Evidence, likely_causes
from test_report import asked, row, rows, shown

SOUND = Evidence(
    max_new_tokens=96, max_length=1024, traces=400, teach=390, dropped={"wrong": 10}, longer=0, examples=390, too_long=0,
    steps=200, losses=[2.0 - 0.005 * step for step in range(200)],
)  # fmt: skip
BASE = rows(right=10, wrong=70)


def names(student: list[Prediction], evidence: Evidence = SOUND, teacher: int = 60, **changes: Any) -> set[str]:
    models = {"base": BASE, "student": student, "teacher": rows(right=teacher, wrong=80 - teacher)}
    report = build_report(asked(80), models)
    changed = msgspec.structs.replace(evidence, **changes)
    return {cause.name for cause in likely_causes(report.models, report.paired, report.verdict, changed)}


def test_a_sound_run_that_is_no_better_has_no_cause_to_name() -> None:
    assert names(rows(right=10, wrong=70)) == set()


def test_a_better_student_needs_no_excuse() -> None:
    assert names(rows(right=60, truncated=20), examples=3, steps=1) == set()


@pytest.mark.parametrize(
    ("student", "changes", "cause"),
    [
        (rows(right=10, wrong=50, truncated=20), {}, "truncation"),
        (rows(right=10, wrong=50, no_answer=20), {}, "format"),
        (rows(unmarked=10, wrong=70), {}, "format"),
        (rows(right=10, wrong=69, error=1), {}, "errors"),
        (BASE, {"examples": 30}, "few_traces"),
        (BASE, {"steps": 9}, "few_steps"),
        (BASE, {"longer": 200}, "long_traces"),
        (BASE, {"too_long": 100}, "too_long_to_train"),
        (BASE, {"teach": 100}, "low_yield"),
        (BASE, {"losses": [1.0] * 50}, "loss_not_falling"),
        (BASE, {"losses": [1.0] * 25 + [3.0] * 25}, "loss_not_falling"),
        (BASE, {"teacher": 10}, "teacher_not_better"),
        (rows(right=14, wrong=66), {}, "few_questions"),
    ],
)
def test_each_cause_is_named_where_the_data_shows_it_and_alone(
    student: list[Prediction], changes: dict[str, Any], cause: str
) -> None:
    assert names(student, **changes) == {cause}


def test_an_answer_that_goes_on_is_a_run_on() -> None:
    on = [row(f"q{i}", response="Final Answer: 42\nQuestion: What is 7?") for i in range(10)] + [
        row(f"q{i}", "wrong") for i in range(10, 80)
    ]
    assert names(on) == {"run_on"}
    report = build_report(asked(80), {"base": BASE, "student": on})
    assert report.models["student"].run_on == 10
    assert "went on after the answer: student 10" in shown(report)
    cut = [row(f"q{i}", finish="length") for i in range(10)] + on[10:]
    assert names(cut) == {"run_on", "truncation"}


def test_a_base_that_knows_it_all_leaves_no_headroom() -> None:
    report = build_report(asked(80), {"base": rows(right=78, wrong=2), "student": rows(right=78, wrong=2)})
    assert [cause.name for cause in report.causes] == ["no_headroom"]


def test_causes_stand_before_the_verdict_with_their_numbers() -> None:
    report = build_report(asked(80), {"base": BASE, "student": rows(right=10, wrong=39, truncated=31)})
    lines = shown(report).splitlines()
    assert lines[-1] == report.sentence
    assert any(line.startswith("- 31 of 80 answers of the student ran into the limit") for line in lines)
