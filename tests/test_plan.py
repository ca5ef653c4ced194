"""The plan of a recipe: what it finds, when it stops a run, and that nothing is asked twice."""

import io
import re
from pathlib import Path
from statistics import median_low
from types import SimpleNamespace

import msgspec
import pytest
from rich.console import Console

from cotdistill import pipeline
from cotdistill.commands.plan import plan
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import DataError, NotWorthIt, ResumeError
from cotdistill.example import build_example
from cotdistill.plans.plan import Plan, chosen, lines
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.question import Question
from cotdistill.recipe import dump_recipe, without_plan
from cotdistill.reporting.table import print_report
from cotdistill.status import status_of
from cotdistill.template import ChatTemplate, read_tokenizer
from test_pipeline import recipe, solve, teacher  # noqa: F401

CONFIG = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}


def many(tiny: Path, **changes: object):
    """A recipe with more training questions than a plan asks."""
    held_out = {"tasks": [{"name": "chain_sum", "size": 5, "config": CONFIG}], "seed": 2}
    train = {"tasks": [{"name": "chain_sum", "size": 30, "config": CONFIG}], "seed": 1}
    return recipe(tiny, questions={"train": train, "held_out": held_out}, plan={"questions": 20}, **changes)


@pytest.fixture(scope="module")
def planned(tiny, tmp_path_factory):
    """A plan, the directory of its run, and the teachers that were opened for it."""
    opened: list[ScriptedEngine] = []
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "engine_for", lambda *_: opened.append(ScriptedEngine(solve)) or opened[-1])
        plan = pipeline.plan(many(tiny), runs=runs, quiet=True)
    return plan, runs / "tiny", opened


def rows(path: Path) -> list[dict]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def test_a_plan_measures_both_models_on_training_questions_alone(planned):
    plan, directory, opened = planned
    training = {row["id"] for row in rows(directory / "1_questions.jsonl")}
    asked = {row["question_id"] for row in rows(directory / "0_plan/base.jsonl")}
    assert asked == {row["question_id"] for row in rows(directory / "2_traces.jsonl")} < training
    assert len(asked) == len(opened[0].requests) == plan.questions == 20
    assert (plan.base.right, plan.teacher.right, plan.teacher.n) == (0, 20, 20)
    assert plan.teacher.low < 0.9
    assert plan.headroom == 1.0
    assert plan.kept.right == 20
    assert plan.fit_length.right == 20
    assert plan.relation.kind == "same"
    assert plan.needed < 30
    assert plan.stop is None
    assert plan.cut_off is None


def test_a_plan_forecasts_every_stage_of_the_recipe(planned):
    plan, directory, _ = planned
    expected = {
        "generate": 30, "train": 30, "evaluate/base": 5, "evaluate/student": 5, "evaluate/teacher": 5,
    }  # fmt: skip
    assert {stage.stage: stage.rows for stage in plan.forecast.stages} == expected
    assert all(0 < stage.tokens.low <= stage.tokens.high for stage in plan.forecast.stages)
    assert all(stage.seconds.low <= stage.seconds.expected <= stage.seconds.high for stage in plan.forecast.stages)
    assert plan.forecast.stages[1].seconds.expected > 0
    assert msgspec.json.decode((directory / "0_plan.json").read_bytes(), type=Plan) == plan


def test_what_is_expected_lies_in_its_interval_where_many_examples_are_too_long(
    planned, tiny, tmp_path, teacher,  # noqa: F811
):
    template = ChatTemplate(read_tokenizer(tiny))
    asked = {row["id"]: Question(row["id"], row["question"]) for row in rows(planned[1] / "1_questions.jsonl")}
    half = median_low(
        len(build_example(template, asked[t["question_id"]], t["reasoning"], system=SYSTEM_PROMPT, trace_id="").input_ids)
        for t in rows(planned[1] / "2_traces.jsonl")
    )
    plan = pipeline.plan(many(tiny, train={"max_length": half}), runs=tmp_path, quiet=True)
    assert 5 < plan.fit_length.right < plan.kept.right == 20
    (training,) = (stage for stage in plan.forecast.stages if stage.stage == "train")
    assert training.tokens.low < training.tokens.expected < training.tokens.high
    assert training.seconds.low < training.seconds.expected < training.seconds.high


def test_a_plan_is_told_in_words(planned):
    said = "\n".join(lines(planned[0]))
    for part in ("teacher: 20 of 20 (100 % [84, 100]) right", "possible objectives: sft", "99th percentile", "forecast, all:", "questions needed"):
        assert part in said


def test_the_command_it_prints_goes_on_with_the_run_that_was_planned(tmp_path, monkeypatch, capsys):
    file = tmp_path / "my recipe.yaml"
    file.write_bytes(dump_recipe(recipe(tmp_path)).encode())
    made = SimpleNamespace(stop="")
    monkeypatch.setattr(pipeline, "plan", lambda *_, **__: made)
    monkeypatch.setattr("cotdistill.plans.plan.lines", lambda _: [])
    plan(file)
    assert capsys.readouterr().out == f"\ngo on: cotdistill run '{file}'\n"
    plan(file, runs=tmp_path, name="again", seed=0)
    again = f"cotdistill run '{file}' --runs {tmp_path} --name again --seed 0"
    assert capsys.readouterr().out == f"\ngo on: {again}\n"
    made.stop = "nothing to learn"
    with pytest.raises(NotWorthIt, match=re.escape(f"{again} --force")):
        plan(file, runs=tmp_path, name="again", seed=0)


def test_after_a_plan_the_traces_are_still_owed(planned):
    found = {stage.name: stage for stage in status_of(planned[1]).stages}
    assert not found["generate"].done
    assert (found["generate"].planned, found["generate"].present) == (30, 20)


def test_a_run_asks_nothing_of_its_plan_again_and_tells_what_it_took(tiny, tmp_path, teacher):  # noqa: F811
    first = pipeline.plan(many(tiny), runs=tmp_path, quiet=True)
    before = rows(tmp_path / "tiny/2_traces.jsonl")
    report = pipeline.run(many(tiny), runs=tmp_path, quiet=True)
    assert rows(tmp_path / "tiny/2_traces.jsonl")[:20] == before
    assert [len(engine.requests) for engine in teacher] == [20, 10, 5]
    told = {stage["stage"]: stage for stage in report.details["plan"]["stages"]}
    assert told["generate"]["tokens"]["expected"] == pytest.approx(told["generate"]["took_tokens"], rel=0.2)
    assert told["train"]["tokens"]["expected"] == pytest.approx(told["train"]["took_tokens"], rel=0.2)
    assert report.details["plan"]["questions"] == first.questions
    assert ">forecast</th>" in (tmp_path / "tiny/7_report.html").read_text()
    console = Console(file=io.StringIO(), width=80)
    print_report(report, console)
    [line] = [line for line in console.file.getvalue().splitlines() if line.startswith("generate ")]
    assert f"{told['generate']['took_tokens']:,}" in line


def test_a_plan_stays_while_its_recipe_does_and_is_made_anew_for_another(tiny, tmp_path, teacher):  # noqa: F811
    pipeline.plan(many(tiny), runs=tmp_path, quiet=True)
    again = tmp_path / "tiny/0_plan.json"
    written = again.stat().st_mtime_ns
    pipeline.plan(many(tiny, report={"title": "Sums"}), runs=tmp_path, quiet=True)
    assert again.stat().st_mtime_ns == written
    longer = pipeline.plan(many(tiny, train={"num_epochs": 7}, evaluate={"max_new_tokens": 4}), runs=tmp_path, quiet=True)
    assert longer.forecast.stages[1].tokens.expected > 6000
    assert longer.max_new_tokens == 4
    assert len(teacher) == 1
    kept = again.read_bytes()
    with pytest.raises(ResumeError, match="max_new_tokens"):
        pipeline.plan(many(tiny, generate={"sampling": {"max_new_tokens": 99}}), runs=tmp_path, quiet=True)
    assert again.read_bytes() == kept


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("I will not say.", "none of the teacher's 6 traces may teach"),
        ("1 + 1 = 3.\nFinal Answer: 2", "none of the teacher's 6 traces may teach"),
        ("and " * 600, r"6 traces may teach; most traces \(6 of 6\) were cut off after 512 tokens: raise .*max_new_tokens"),
    ],
)
def test_a_run_stops_where_nothing_would_be_left_to_learn(tiny, tmp_path, monkeypatch, answer, said):
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(lambda _: answer))
    with pytest.raises(NotWorthIt, match=said):
        pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    assert not (tmp_path / "tiny/5_adapter").exists()


def test_where_most_traces_were_cut_off_the_plan_says_what_to_do(tiny, tmp_path, monkeypatch):
    asked: list[str] = []

    def talks(question: str) -> str:
        asked.append(question)
        return solve(question) if len(asked) > 4 else "and " * 600

    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(talks))
    plan = pipeline.plan(recipe(tiny), runs=tmp_path, quiet=True)
    assert (plan.kept.right, plan.stop) == (2, None)
    [said] = [line for line in lines(plan) if "cut off" in line]
    assert said.startswith("most traces (4 of 6) were cut off after 512 tokens: raise generate.sampling.max_new_tokens")


def test_a_run_stops_where_the_teacher_is_no_better_than_the_base_and_force_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
    monkeypatch.setattr(pipeline, "open_engine", lambda *_, adapter, **__: ScriptedEngine(solve))
    with pytest.raises(NotWorthIt, match=r"6 against 6 of 6 right.*--force"):
        pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)
    assert NotWorthIt.exit_code == 3
    report = pipeline.run(recipe(tiny), runs=tmp_path, force=True, quiet=True)
    assert "not better" in report.details["plan"]["stop"]
    pipeline.run(recipe(tiny), runs=tmp_path, quiet=True)  # what was forced is not stopped later


def test_examples_that_do_not_fit_stop_a_run_before_training(tiny, tmp_path, teacher):  # noqa: F811
    with pytest.raises(NotWorthIt, match="none of the 6 traces that may teach fits"):
        pipeline.run(recipe(tiny, train={"max_length": 20}), runs=tmp_path, quiet=True)


def test_without_gold_the_plan_says_so_and_stops_nothing(tiny, tmp_path, teacher):  # noqa: F811
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(f'{{"question": "State the result of {i} + {i} = "}}\n' for i in range(1, 4)))
    plain = recipe(tiny, questions={"train": {"file": str(asked)}, "held_out": {"tasks": [{"name": "gcd", "size": 2}]}})
    plan = pipeline.plan(plain, runs=tmp_path, quiet=True)
    assert (plan.base, plan.teacher, plan.headroom, plan.power, plan.stop) == (None, None, None, None, None)
    assert "not graded" in "\n".join(lines(plan))


def test_a_recipe_may_skip_its_plan(tiny, tmp_path, teacher):  # noqa: F811
    report = pipeline.run(without_plan(recipe(tiny)), runs=tmp_path, quiet=True)
    assert not (tmp_path / "tiny/0_plan.json").exists()
    assert "plan" not in report.details
    pipeline.plan(recipe(tiny), runs=tmp_path, quiet=True)
    assert (tmp_path / "tiny/0_plan.json").exists()
    again = pipeline.run(without_plan(recipe(tiny)), runs=tmp_path, quiet=True)
    assert "plan" not in again.details  # made afterwards, it forecasts nothing


def test_a_larger_sample_holds_a_smaller_one_and_prefers_no_end_of_the_list():
    questions = [Question(f"q{i}", f"What is {i}?") for i in range(200)]
    small, large = chosen(questions, 20), chosen(questions, 40)
    assert {one.id for one in small} < {one.id for one in large}
    assert small == [one for one in questions if one in small]
    assert 5 <= sum(questions.index(one) < 100 for one in small) <= 15
    assert chosen(questions[:3], 20) == questions[:3]


@pytest.mark.parametrize("count", [19, 51])
def test_a_plan_asks_twenty_to_fifty_questions(tiny, count):
    with pytest.raises(DataError, match=r"plan\.questions"):
        recipe(tiny, plan={"questions": count})


def test_a_ladder_and_a_second_student_are_forecast_and_compared(tiny, tmp_path, teacher):  # noqa: F811
    train = {"num_epochs": 1, "batch_size": 8, "objective": "auto", "auto": {"rungs": ["sft", "step_by_step"]}}
    made = many(tiny, train=train, evaluate={"max_new_tokens": 8, "teacher": False, "answer_only": True})
    report = pipeline.run(made, runs=tmp_path, quiet=True)
    told = {stage["stage"]: stage for stage in report.details["plan"]["stages"]}
    assert list(told) == ["generate", "ladder", "train/answer_only", "evaluate/base", "evaluate/student",
                          "evaluate/answer_only"]  # fmt: skip
    for name in ("ladder", "train/answer_only"):
        assert told[name]["tokens"]["expected"] == pytest.approx(told[name]["took_tokens"], rel=0.3), name
        assert told[name]["took_seconds"] > 0
    page = (tmp_path / "tiny/7_report.html").read_text()
    assert ">every rung of the ladder</th>" in page
    assert ">training</th>" not in page
    assert any(line.startswith("assumed: of the ladder") for line in lines(pipeline.plan(made, runs=tmp_path, quiet=True)))
