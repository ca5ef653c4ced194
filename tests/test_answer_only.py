"""What the reasoning is worth: a second student of a run, taught the final lines alone."""

import msgspec
import pytest

from cotdistill import pipeline
from cotdistill.answer_only import answer_only_settings
from cotdistill.errors import DataError
from cotdistill.report import build_report
from cotdistill.reporting.publication import publish
from cotdistill.reporting.run_files import read_run
from cotdistill.screen import Screen
from cotdistill.settings.objective import StepByStepSettings
from cotdistill.settings.train import TrainSettings
from cotdistill.status import status_of
from test_pipeline import recipe, solve, teacher  # noqa: F401
from test_report import BASE, STUDENT, asked, rows, shown

ANSWER_ONLY = {"max_new_tokens": 8, "teacher": False, "answer_only": True}


def with_arm(tiny, answer_only=True, **more):
    evaluate = {**ANSWER_ONLY, "answer_only": answer_only}
    return recipe(tiny, evaluate=evaluate, plan={"skip": True}, **more)


def test_a_second_student_learns_the_final_lines_alone_is_resumed_and_goes_when_it_is_not_wanted(
    tiny, tmp_path, teacher, monkeypatch  # noqa: F811
):  # fmt: skip
    directory = tmp_path / "tiny"
    pipeline.run(with_arm(tiny, answer_only=False), runs=tmp_path, quiet=True)
    before = (directory / "5_adapter/adapter_model.safetensors").stat().st_mtime_ns
    report = pipeline.run(with_arm(tiny), runs=tmp_path, quiet=True)  # the arm alone is owed
    assert (directory / "5_adapter/adapter_model.safetensors").stat().st_mtime_ns == before
    assert list(report.models) == ["base", "student", "answer_only"]
    assert report.models["answer_only"].n == 5
    assert report.reasoning_worth is not None
    taught = [msgspec.json.decode(line) for line in (directory / "4_answer_only.jsonl").read_bytes().splitlines()]
    assert len(taught) == 6
    whole = [msgspec.json.decode(line) for line in (directory / "4_examples.jsonl").read_bytes().splitlines()]
    assert all(len(a["input_ids"]) < len(b["input_ids"]) for a, b in zip(taught, whole, strict=True))
    stages = msgspec.json.decode((directory / "manifest.json").read_bytes())["stages"]
    assert stages["train/answer_only"]["settings"]["train"] == {
        **stages["train"]["settings"]["train"], "target": "answer",
    }  # fmt: skip
    assert {"train/answer_only", "evaluate/answer_only"} <= {stage.name for stage in status_of(directory).stages}
    assert status_of(directory).done

    made = (directory / "5_answer_only/adapter_model.safetensors").stat().st_mtime_ns
    (directory / "6_predictions/answer_only.jsonl").unlink()
    assert not status_of(directory).done
    assert pipeline.run(with_arm(tiny), runs=tmp_path, quiet=True).against == report.against
    assert (directory / "5_answer_only/adapter_model.safetensors").stat().st_mtime_ns == made

    lines: list[dict[str, bool]] = []
    monkeypatch.setattr(pipeline, "watched", lambda stages, **_: lines.append(stages) or Screen(stages))
    pipeline.run(with_arm(tiny), runs=tmp_path, quiet=True)
    assert list(lines[0]) == ["traces", "training", "training/answer_only", "base", "unseen/base", "student",
                              "unseen/student", "answer_only"]  # fmt: skip
    assert all(lines[0].values())

    pipeline.run(with_arm(tiny, answer_only=False), runs=tmp_path, quiet=True)
    assert "answer_only" not in publish(directory).models
    assert "answer_only" not in read_run(directory).predictions


def test_every_objective_has_the_same_second_student():
    settings = TrainSettings(objective="step_by_step", num_epochs=5, step_by_step=StepByStepSettings(0.3))
    assert answer_only_settings(settings) == msgspec.structs.replace(settings, objective="sft", target="answer")
    assert answer_only_settings(settings).claimed == TrainSettings(num_epochs=5, target="answer").claimed


def test_a_second_student_that_would_be_the_first_again_is_refused(tiny):
    with pytest.raises(DataError, match=r"same student twice where train\.target is answer"):
        with_arm(tiny, train={"target": "answer"})


def test_the_report_pairs_the_two_students_and_says_so_where_the_answers_alone_do_better():
    pair_of = {"base": BASE, "student": STUDENT}
    report = build_report(asked(80), {**pair_of, "answer_only": rows(right=20, wrong=60)})
    assert report.reasoning_worth.estimate == pytest.approx((41 - 20) / 80)
    said = shown(report)
    assert "student against a student taught the answers alone: 22 gained, 1 lost" in said
    assert "what the reasoning is worth, beyond learning the answers: +26.2 points [" in said
    assert "But" not in report.sentence
    report = build_report(asked(80), {**pair_of, "answer_only": rows(right=80)})
    assert report.reasoning_worth.high < 0
    assert "But a student taught the answers alone answers 80 of 80" in report.sentence
