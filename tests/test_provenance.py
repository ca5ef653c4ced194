"""What a run leaves on record, and that no file ever mixes rows that do not belong together."""

import json
from pathlib import Path

import pytest

from cotdistill import pipeline
from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.generate import generate
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import DataError, ResumeError
from cotdistill.stages import models
from cotdistill.storage.manifest import Manifest
from server_double import Behaviour, ServerDouble, answers
from test_pipeline import recipe, solve


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedEngine]:
    """Every teacher that gets opened, in order."""
    engines: list[ScriptedEngine] = []

    def open_teacher(*_: object) -> ScriptedEngine:
        engines.append(ScriptedEngine(lambda question: f"It is so.\nFinal Answer: {len(question)}"))
        return engines[-1]

    monkeypatch.setattr(models, "engine_for", open_teacher)
    return engines


def ask(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"question": text, "answer": "5"}) + "\n" for text in texts))
    return path


def test_a_run_records_versions_machine_inputs_seeds_recipe_and_costs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
    held_out = ask(tmp_path / "test.jsonl", "What is 2 + 3?", "What is 1 + 4?")
    base = recipe(tiny)
    asked = {"train": {"tasks": [{"name": "chain_sum", "size": 4}], "seed": 1}, "held_out": {"file": str(held_out)}}
    pipeline.run(recipe(tiny, questions=asked), runs=tmp_path, quiet=True)
    written = json.loads((tmp_path / "tiny/manifest.json").read_bytes())
    assert written["inputs"]["questions.held_out"]["name"] == "test.jsonl"
    assert len(written["inputs"]["questions.held_out"]["sha256"]) == 64
    assert written["seeds"] == {"questions.train": 1, "generate": 0, "train": 42}
    assert written["machine"]["cpu"]
    assert written["versions"]["transformers"]
    assert written["recipe"]["train"]["learning_rate"] == base.train.learning_rate
    made = written["stages"]
    assert all(stage["started"] and stage["finished"] and "seconds" in stage["facts"] for stage in made.values())
    for name in ("generate", "evaluate/base", "evaluate/student", "evaluate/teacher"):
        assert made[name]["facts"]["completion_tokens"] > 0, name
        assert len(made[name]["settings"]["model"]["hash"]) == 16
        assert made[name]["settings"]["load_in_4bit"] is None
        assert made[name]["settings"]["trust_remote_code"] is False
    assert made["train"]["facts"]["tokens"] > 0
    assert made["train"]["engine"] == "transformers, float32, not 4-bit"
    assert made["evaluate/base"]["engine"] == "transformers, float32"


def test_the_key_of_a_served_teacher_is_sent_and_in_no_file_of_the_run(tiny, tmp_path, monkeypatch):
    key = "sk-never-written-down"
    monkeypatch.setenv("MY_KEY", key)

    def solved(body: dict) -> Behaviour:
        return answers(solve(body["messages"][-1]["content"]))

    with ServerDouble(models=["m"], key=key, by_body=solved) as server:
        served = {"base_url": server.url, "api_key_env": "MY_KEY"}
        asked = recipe(tiny, models={"teacher": "m", "student": str(tiny), "server": served}, plan={"skip": True})
        pipeline.run(asked, runs=tmp_path, quiet=True)
    assert server.bodies
    written = [file.read_bytes() for file in (tmp_path / "tiny").rglob("*") if file.is_file()]
    assert any(b"MY_KEY" in content for content in written)
    assert not any(key.encode() in content for content in written)


def test_a_worked_example_that_is_held_out_stops_the_run_before_any_teacher_call(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: pytest.fail("the teacher was opened"))
    held_out = ask(tmp_path / "test.jsonl", "What is 2 + 3?")
    shots = tmp_path / "shots.jsonl"
    shots.write_text(json.dumps({"question": "what is  2 + 3", "reasoning": "2 + 3 = 5.\nFinal Answer: 5"}) + "\n")
    asked = {"train": {"tasks": [{"name": "chain_sum", "size": 4}], "seed": 1}, "held_out": {"file": str(held_out)}}
    with pytest.raises(DataError, match=r"shots\.jsonl shows 1 of the held-out questions"):
        pipeline.run(recipe(tiny, questions=asked, generate={"few_shot": str(shots)}), runs=tmp_path, quiet=True)
    assert not (tmp_path / "tiny/2_traces.jsonl").exists()


def test_a_moved_question_file_is_the_same_and_a_changed_one_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))

    def with_held_out(path: Path) -> object:
        train = {"tasks": [{"name": "chain_sum", "size": 4}], "seed": 1}
        return recipe(tiny, questions={"train": train, "held_out": {"file": str(path)}})

    pipeline.run(with_held_out(ask(tmp_path / "a.jsonl", "What is 2 + 3?")), runs=tmp_path, quiet=True)
    pipeline.run(with_held_out(ask(tmp_path / "b.jsonl", "What is 2 + 3?")), runs=tmp_path, quiet=True)
    with pytest.raises(ResumeError, match=r"held_out\.file: .* -> .*choose another output or run name"):
        pipeline.run(with_held_out(ask(tmp_path / "b.jsonl", "What is 1 + 4?")), runs=tmp_path, quiet=True)


def run_generate(tiny: Path, directory: Path, **flags: object) -> dict[str, object]:
    """``cotdistill generate``; returns the manifest's record of the stage."""
    generate(teacher_model=str(tiny), input_file=directory / "in.jsonl", output_file=directory / "cot.jsonl",
             quiet=True, **flags)  # fmt: skip
    return json.loads((directory / "cot.manifest.json").read_bytes())["stages"]["generate"]


def test_more_questions_are_added_and_a_limit_leaves_what_is_there(tiny, tmp_path, opened):
    ask(tmp_path / "in.jsonl", "one?", "two?", "three?")
    assert run_generate(tiny, tmp_path, limit=2)["planned"] == 2
    ask(tmp_path / "in.jsonl", "one?", "two?", "three?", "four?")
    assert run_generate(tiny, tmp_path)["facts"]["rows"] == 4
    assert [len(engine.requests) for engine in opened] == [2, 2]
    run_generate(tiny, tmp_path, limit=1)
    assert len(opened) == 2
    assert len((tmp_path / "cot.jsonl").read_bytes().splitlines()) == 4
    assert len((tmp_path / "cot.verdicts.jsonl").read_bytes().splitlines()) == 4


def test_another_input_file_does_not_mix_its_rows_into_the_same_output(tiny, tmp_path, opened):
    ask(tmp_path / "in.jsonl", "one?", "two?")
    run_generate(tiny, tmp_path)
    inputs = Manifest.open(tmp_path / "cot.manifest.json").noted("inputs")
    before = (tmp_path / "cot.jsonl").read_bytes(), (tmp_path / "cot.verdicts.jsonl").read_bytes()
    ask(tmp_path / "in.jsonl", "two?", "three?")
    with pytest.raises(ResumeError) as refused:
        run_generate(tiny, tmp_path)
    for words in ("holds 1 answers to questions that are not asked now", "go back to the old questions",
                  "another output or run name", "--overwrite"):  # fmt: skip
        assert words in str(refused.value)
    assert before == ((tmp_path / "cot.jsonl").read_bytes(), (tmp_path / "cot.verdicts.jsonl").read_bytes())
    assert len(opened) == 1
    assert Manifest.open(tmp_path / "cot.manifest.json").noted("inputs") == inputs
    run_generate(tiny, tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"load_in_4bit": False}, "load_in_4bit: None -> False"),
        ({"trust_remote_code": True}, "trust_remote_code: False -> True"),
        ({"max_new_tokens": 9}, "sampling.max_new_tokens: 512 -> 9"),
        ({"few_shot": "shots.jsonl"}, "few_shot: None -> "),
    ],
)
def test_other_flags_are_refused_by_name(tiny, tmp_path, opened, flags, said):
    ask(tmp_path / "in.jsonl", "one?")
    run_generate(tiny, tmp_path)
    (tmp_path / "shots.jsonl").write_text('{"question": "q", "reasoning": "Final Answer: 5"}\n')
    with pytest.raises(ResumeError, match=said):
        run_generate(tiny, tmp_path, **{k: tmp_path / v if k == "few_shot" else v for k, v in flags.items()})
    assert len(opened) == 1


def test_another_test_file_or_sampling_is_refused_and_a_limit_or_batch_is_not(tiny, tmp_path, capsys):
    def run(**flags: object) -> None:
        evaluate(base_model=str(tiny), test_file=tmp_path / "test.jsonl", output_file=tmp_path / "p.jsonl",
                 max_new_tokens=4, quiet=True, **flags)  # fmt: skip

    ask(tmp_path / "test.jsonl", "one?", "two?")
    run()
    run(limit=1)
    assert json.loads((tmp_path / "p.metrics.json").read_bytes())["n"] == 1
    run(batch_size=1)
    for flags, said in (({"num_samples": 2, "temperature": 1.0}, "num_samples: 1 -> 2"),
                        ({"thinking": True}, "sampling.thinking: False -> True")):  # fmt: skip
        with pytest.raises(ResumeError, match=said):
            run(**flags)
    inputs = Manifest.open(tmp_path / "p.manifest.json").noted("inputs")
    assert inputs["test_file"]["name"] == "test.jsonl"
    ask(tmp_path / "test.jsonl", "two?", "three?")
    with pytest.raises(ResumeError, match="holds 1 answers to questions that are not asked now"):
        run()
    assert len((tmp_path / "p.jsonl").read_bytes().splitlines()) == 2


def test_the_metrics_of_a_model_are_those_of_the_report_with_its_categories(tiny, tmp_path, capsys):
    asked = [{"question": f"{i}?", "answer": "1", "category": kind} for i, kind in enumerate(["ages", "ages", "units"])]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    evaluate(base_model=str(tiny), test_file=tmp_path / "test.jsonl", output_file=tmp_path / "p.jsonl",
             max_new_tokens=4, quiet=True)  # fmt: skip
    metrics = json.loads((tmp_path / "p.metrics.json").read_bytes())
    assert {name: score["n"] for name, score in metrics["by_category"].items()} == {"ages": 2, "units": 1}
    assert [metrics] == list(json.loads((tmp_path / "p.report.json").read_bytes())["models"].values())
