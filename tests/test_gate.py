"""``cotdistill run --gate``: the exit code says whether to keep the student."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cotdistill import pipeline
from cotdistill.cli import app
from cotdistill.errors import UsageError
from cotdistill.prediction import Prediction
from cotdistill.recipe import Recipe
from cotdistill.report import build_report
from cotdistill.reporting.publication import publish
from cotdistill.settings.evaluate import baselines_in
from synthetic_run import SKILL, make_run
from test_report import BASE, STUDENT, asked, rows

RECIPE = """
name: gated
models: {teacher: t, student: s}
questions: {train: {file: a.jsonl}, held_out: {file: b.jsonl}}
generate: {few_shot: shots.jsonl}
"""


def outcome(
    base: list[Prediction], student: list[Prediction], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str
) -> tuple[int, str, list[Recipe]]:
    (tmp_path / "r.yaml").write_text(RECIPE)
    asked_for: list[Recipe] = []

    def run(recipe: Recipe, **_: object) -> object:
        asked_for.append(recipe)
        return build_report(asked(80, gold=base[0].gold), {"base": base, "student": student})

    monkeypatch.setattr(pipeline, "run", run)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "r.yaml"), *flags])
    return result.exit_code, result.output, asked_for


@pytest.mark.parametrize(
    ("base", "student", "code", "said"),
    [
        (BASE, STUDENT, 0, "keep the student"),
        (BASE, BASE, 3, "keep the base"),
        (STUDENT, BASE, 3, "is worse than its base"),
        (rows(ungraded=80), rows(ungraded=80), 3, "No verdict"),
    ],
)
def test_the_gate_opens_for_a_better_student_only(base, student, code, said, tmp_path, monkeypatch):
    found, text, _ = outcome(base, student, tmp_path, monkeypatch, "--gate")
    assert (found, said in text) == (code, True)
    found, text, _ = outcome(base, student, tmp_path, monkeypatch)
    assert (found, said in text) == (0, True)


def test_baselines_are_asked_for_by_flag_with_dashes_too(tmp_path, monkeypatch):
    _, _, (recipe,) = outcome(BASE, STUDENT, tmp_path, monkeypatch, "--baseline", "zero,few-shot, native")
    assert recipe.evaluate.baselines == ("zero", "few_shot", "native")
    with pytest.raises(UsageError, match="best is none of zero, few_shot, native"):
        baselines_in("best")


def test_a_run_that_is_not_better_says_why_on_its_page(tmp_path, monkeypatch):
    monkeypatch.setitem(SKILL, "student", 0.3)
    monkeypatch.setitem(SKILL, "teacher", 0.3)
    report = publish(make_run(tmp_path / "run", 40, seed=3))
    assert report.verdict != "better"
    names = {cause.name for cause in report.causes}
    assert {"few_traces", "few_steps", "low_yield"} <= names
    html = (tmp_path / "run/7_report.html").read_text(encoding="utf-8")
    assert "Likely causes" in html
    assert f"only {report.details['train']['examples']} examples were trained on" in html
