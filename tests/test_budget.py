"""What every objective will cost: rows, tokens and seconds of each stage, from one sample."""

import msgspec
import pytest
import torch

from cotdistill.errors import SetupError
from cotdistill.learning.relation import Relation
from cotdistill.model_files.parameter_count import parameter_count
from cotdistill.plans.budget import Sample, Sizes, assumptions, budget
from cotdistill.plans.forecast import Forecast, Range, StageForecast, forecast
from cotdistill.recipe import Recipe, decode_recipe

SAMPLE = Sample(
    traces_each=1.0,
    teacher_prompts=[50, 50],
    teacher_answers=[40, 40],
    prompts=[30, 30],
    base_answers=[20, 20],
    whole=[70, 70],
    answers=[40, 40],
    final_lines=[36, 36],
    final_answers=[6, 6],
    labels=[26, 26],
    rows=Range(0.8, 0.7, 0.9),
    untaught=Range(0.2, 0.1, 0.3),
    right=Range(0.25, 0.1, 0.4),
    teacher_pace=0.1,
    base_pace=0.05,
    forward_pace=0.001,
    teacher_size=10.0,
    relation=Relation("same", 100, 100, 100),
)
SIZES = Sizes(train=100, held_out=40, unseen=10, dev=20)


def recipe(train: dict[str, object] | None = None, **evaluate: object) -> Recipe:
    return decode_recipe({
        "name": "x", "models": {"teacher": "t", "student": "s"},
        "questions": {"train": {"file": "a"}, "held_out": {"file": "b"}},
        "generate": {"few_shot": "shots.jsonl"},
        "train": {"num_epochs": 2, **(train or {})}, "evaluate": {"teacher": False, **evaluate},
    }, "test")  # fmt: skip


def told(made: Recipe, sample: Sample = SAMPLE) -> dict[str, StageForecast]:
    found: Forecast = forecast(budget(made, sample, SIZES), None)
    return {stage.stage: stage for stage in found.stages}


def test_every_way_to_ask_and_every_sample_is_counted():
    found = told(recipe(num_samples=3, temperature=0.7, baselines=["zero", "few_shot", "native"], teacher=True))
    assert list(found) == [
        "generate", "train", "evaluate/base", "evaluate/unseen/base", "evaluate/base_few_shot", "evaluate/base_native",
        "evaluate/student", "evaluate/unseen/student", "evaluate/teacher", "evaluate/unseen/teacher",
    ]  # fmt: skip
    assert found["evaluate/base"].rows == 120
    assert found["evaluate/unseen/teacher"].rows == 30
    assert found["evaluate/base_few_shot"].tokens.expected == 120 * (50 + 20)
    assert found["evaluate/base_native"].tokens.expected == 120 * (30 + 20)
    assert found["evaluate/student"].seconds.expected == pytest.approx(120 * 40 * 0.05)


def test_step_by_step_has_twice_the_rows_and_is_asked_for_the_answers_too():
    plain, both = told(recipe()), told(recipe({"objective": "step_by_step"}))
    assert (plain["train"].rows, both["train"].rows) == (80, 160)
    assert plain["train"].tokens.expected == 2 * 80 * 70
    assert both["train"].tokens.expected == pytest.approx(2 * 80 * (70 + 26))
    assert both["evaluate/student_label"].tokens.expected == 40 * (30 + 6)


def test_offline_kd_has_the_teacher_read_every_trace_once():
    plain, kd = told(recipe())["train"], told(recipe({"objective": "offline_kd"}))["train"]
    assert kd.tokens == plain.tokens
    assert kd.seconds.expected - plain.seconds.expected == pytest.approx(80 * 70 * 0.001 * 10)


def test_on_policy_has_the_student_write_and_the_teacher_read_in_every_epoch():
    plain = told(recipe())["train"]
    made = recipe({"objective": "on_policy", "on_policy": {"student_share": 0.5, "max_new_tokens": 10}})
    found = told(made)["train"]
    reads, writes = 80 * 70 * 0.001 * 10, 80 * 0.5 * 10 * 0.05
    assert found.seconds.expected - plain.seconds.expected == pytest.approx(2 * (reads + writes))
    assert found.seconds.low < found.seconds.expected < found.seconds.high
    assert any("10.0 times" in said for said in assumptions(made, SAMPLE))


@pytest.mark.parametrize(("alone", "asked", "rows"), [(False, 20, 80 + 20 * 4 * 0.25), (True, 100, 100 * 4 * 0.25)])
def test_reject_on_student_has_the_student_answer_what_the_teacher_did_not_teach(alone, asked, rows):
    made = recipe({"objective": "reject_on_student", "reject_on_student": {"num_samples": 4, "alone": alone}})
    found = told(made)
    assert list(found)[:3] == ["generate", "generate/student", "train"]
    assert found["generate/student"].rows == asked * 4
    assert found["train"].rows == round(rows)


def test_the_second_student_is_trained_on_final_lines_and_asked_the_held_out_questions():
    found = told(recipe({"validation": 0.25}, answer_only=True))
    assert found["train"].rows == found["train/answer_only"].rows == 60
    assert found["train/answer_only"].tokens.expected == 2 * 60 * 36
    assert found["evaluate/answer_only"].rows == 40
    assert found["evaluate/answer_only"].seconds.expected == pytest.approx(40 * 6 * 0.05)
    assert "evaluate/unseen/answer_only" not in found


def test_a_ladder_is_every_possible_rung_short_and_two_in_full():
    rungs = ["sft", "step_by_step", "offline_kd"]
    made = recipe({"objective": "auto", "num_epochs": 3, "auto": {"rungs": rungs}})
    ladder = told(made)["ladder"]
    one = {rung: told(recipe({"objective": rung, "num_epochs": 3}))["train"].seconds.expected for rung in rungs}
    asked = 20 * 40 * 0.05
    assert ladder.seconds.expected == pytest.approx(sum(one.values()) / 3 + 2 * sum(one.values()) / 3 + asked * 6, rel=0.1)
    assert ladder.seconds.low < ladder.seconds.expected < ladder.seconds.high
    apart = msgspec.structs.replace(SAMPLE, relation=Relation("different", 5, 100, 100))
    assert told(made, apart)["ladder"].rows < ladder.rows
    assert not any("teacher" in said for said in assumptions(made, apart))


def test_parameters_are_counted_from_the_headers(tiny, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    count = sum(p.numel() for p in model.parameters())
    assert parameter_count(tiny) == count
    torch.save({name: p.detach() for name, p in model.named_parameters()}, tmp_path / "pytorch_model.bin")
    assert parameter_count(tmp_path) == count
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(SetupError, match="there are none"):
        parameter_count(tmp_path)
