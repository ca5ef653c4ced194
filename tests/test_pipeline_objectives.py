"""Objectives in a whole run and from the command line: chosen in one word, recorded, refused where they cannot work."""

import msgspec
import pytest
from typer.testing import CliRunner

from conftest import index_of_scores, make_model, on_cpu
from cotdistill import pipeline
from cotdistill.cli import app
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import DataError, ResumeError, ServerAway
from cotdistill.learning.teacher_scores import LoadedTeacher
from cotdistill.prompt import LABEL_PROMPT
from cotdistill.recipe import decode_recipe
from cotdistill.settings.objective import StepByStepSettings
from cotdistill.settings.train import TrainSettings
from test_pipeline import recipe, solve, teacher  # noqa: F401

TRAIN = {"num_epochs": 1, "batch_size": 2, "gradient_accumulation_steps": 1}


def rows(path):
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def manifest(directory):
    return msgspec.json.decode((directory / "manifest.json").read_bytes())["stages"]


def with_objective(tiny, objective, other=None, **options):
    plain = msgspec.to_builtins(recipe(tiny, train={**TRAIN, "objective": objective, **options}, plan={"skip": True}))
    plain["evaluate"] = {"max_new_tokens": 8, "teacher": False}
    plain["models"]["teacher"] = str(other or tiny)
    return decode_recipe(plain, "test")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("other"), seed=7)


def test_step_by_step_teaches_two_tasks_and_is_asked_both(tiny, tmp_path, teacher):  # noqa: F811
    report = pipeline.run(with_objective(tiny, "step_by_step", step_by_step={"alpha": 0.3}), runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    taught = rows(directory / "4_examples.jsonl")
    labels = [row for row in taught if row.get("task") == "label"]
    assert len(labels) == 6
    assert len(taught) == 12
    assert all(len(row["input_ids"]) - row["prompt_length"] < 25 for row in labels)
    assert list(report.models)[:2] == ["base", "student"]
    assert report.models["student_label"].n == 5
    assert manifest(directory)["evaluate/student_label"]["settings"]["system_prompt"] == LABEL_PROMPT
    facts = manifest(directory)["train"]["facts"]
    assert set(facts["terms"]) == {"label", "rationale"}
    assert manifest(directory)["train"]["settings"]["train"]["step_by_step"] == {"alpha": 0.3}
    with pytest.raises(ResumeError, match=r"train.step_by_step.alpha: 0.3 -> 0.4"):
        pipeline.run(with_objective(tiny, "step_by_step", step_by_step={"alpha": 0.4}), runs=tmp_path, quiet=True)
    with pytest.raises(ResumeError, match=r"train.objective: 'step_by_step' -> 'sft'.*labels: '\w+' -> None"):
        pipeline.run(with_objective(tiny, "sft"), runs=tmp_path, quiet=True)


def test_offline_kd_scores_the_traces_once_and_records_their_hash(tiny, other, tmp_path, teacher):  # noqa: F811
    chosen = with_objective(tiny, "offline_kd", other)
    pipeline.run(chosen, runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    known = manifest(directory)["train"]
    assert known["settings"]["teacher"]["name"] == other.name
    assert known["facts"]["scores"]["name"] == "2_scores.safetensors"
    assert set(known["facts"]["terms"]) == {"nll", "kl"}
    changed = (directory / "2_scores.safetensors").stat().st_mtime_ns
    pipeline.run(msgspec.structs.replace(chosen, train=msgspec.structs.replace(chosen.train, seed=1)), runs=tmp_path,
                 overwrite=True, quiet=True)  # fmt: skip
    assert (directory / "2_scores.safetensors").stat().st_mtime_ns == changed


def test_on_policy_runs_with_the_teachers_weights_and_examples(tiny, other, tmp_path, teacher, monkeypatch):  # noqa: F811
    read = []
    score = LoadedTeacher.score
    monkeypatch.setattr(LoadedTeacher, "score", lambda self, rows: read.extend(rows) or score(self, rows))
    (tmp_path / "shots.jsonl").write_text(SHOTS)
    options = {"student_share": 0.6, "max_new_tokens": 8, "beta": 1.0}
    chosen = with_objective(tiny, "on_policy", other, on_policy=options)
    asked = msgspec.structs.replace(chosen.generate, few_shot=str(tmp_path / "shots.jsonl"))
    pipeline.run(msgspec.structs.replace(chosen, generate=asked), runs=tmp_path, quiet=True)
    assert read
    assert all("2 + 1 = 3." in on_cpu(tiny).tokenizer.decode(row.input_ids) for row in read)
    facts = manifest(tmp_path / "tiny")["train"]["facts"]
    assert set(facts["terms"]) == {"traces", "samples"}
    assert "offline_kd" not in manifest(tmp_path / "tiny")["train"]["settings"]["train"]


@pytest.mark.parametrize("objective", ["on_policy", "offline_kd"])
def test_a_server_that_is_away_is_refused_before_the_teacher_is_asked(tiny, tmp_path, monkeypatch, objective):
    asked = ScriptedEngine(solve)
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: asked)
    plain = msgspec.to_builtins(with_objective(tiny, objective))
    plain["models"] |= {"engine": "openai_server", "server": {"base_url": "http://127.0.0.1:9/v1"}}
    with pytest.raises(ServerAway, match=r"cannot be reached.*is the server running"):
        pipeline.run(decode_recipe(plain, "test"), runs=tmp_path, quiet=True)
    assert asked.requests == []


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"step_by_step": {"alpha": 0.0}}, "alpha between 0 and 1"),
        ({"objective": "step_by_step", "target": "answer"}, "the target answer is for the objective sft"),
        ({"objective": "gkd"}, "train.objective"),
        ({"objective": "on_policy", "on_policy": {"beta": 1.5}}, "train.on_policy.beta"),
        ({"objective": "on_policy", "on_policy": {"lmbda": 0.5}}, "its keys are student_share, beta, top_k, max_new_tokens"),
        ({"reject_on_student": {"temperature": 0}}, "temperature above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tiny, train, said):
    with pytest.raises(DataError, match=said):
        recipe(tiny, train=train)


def test_options_of_objectives_that_were_not_chosen_do_not_count():
    plain = TrainSettings()
    assert not {"step_by_step", "on_policy", "offline_kd", "reject_on_student", "auto"} & plain.claimed.keys()
    other = msgspec.structs.replace(plain, step_by_step=StepByStepSettings(0.9))
    assert other.claimed == plain.claimed
    chosen = msgspec.structs.replace(plain, objective="step_by_step")
    assert chosen.claimed == {**plain.claimed, "objective": "step_by_step", "step_by_step": {"alpha": 0.5}}


# The command line


def command(tiny, tmp_path, *more):
    data = tmp_path / "cot.jsonl"
    data.write_text("".join(
        f'{{"question": "What is {i} + 1?", "reasoning": "{i} + 1 = {i + 1}.\\nFinal Answer: {i + 1}"}}\n' for i in range(4)
    ))  # fmt: skip
    return CliRunner().invoke(app, [
        "train", "--student_model", str(tiny), "--cot_dataset", str(data), "--output_dir", str(tmp_path / "out"),
        "--num_epochs", "1", "--quiet", *more,
    ])  # fmt: skip


def test_the_command_trains_step_by_step(tiny, tmp_path):
    done = command(tiny, tmp_path, "--objective", "step_by_step", "--alpha", "0.4")
    assert done.exit_code == 0, done.output
    assert "8 examples" in done.output
    record = msgspec.json.decode((tmp_path / "out.manifest.json").read_bytes())
    assert set(record["stages"]["train"]["facts"]["terms"]) == {"label", "rationale"}


def test_the_command_keeps_the_teachers_scores_beside_the_traces(tiny, other, tmp_path):
    done = command(tiny, tmp_path, "--objective", "offline_kd", "--teacher_model", str(other))
    assert done.exit_code == 0, done.output
    assert len(index_of_scores(tmp_path / "cot.scores.safetensors")["rows"]) == 4


SHOTS = '{"question": "What is 2 + 1?", "reasoning": "2 + 1 = 3.\\nFinal Answer: 3"}\n'


@pytest.mark.parametrize("objective", ["on_policy", "offline_kd"])
def test_the_command_shows_the_teacher_worked_examples(tiny, other, tmp_path, monkeypatch, objective):
    shots = tmp_path / "shots.jsonl"
    shots.write_text(SHOTS)
    read = []
    score = LoadedTeacher.score
    monkeypatch.setattr(LoadedTeacher, "score", lambda self, rows: read.extend(rows) or score(self, rows))
    how = ["--objective", objective, "--teacher_model", str(other), "--few_shot", str(shots)]
    done = command(tiny, tmp_path, *how)
    assert done.exit_code == 0, done.output
    model = on_cpu(tiny)
    for row in read:
        text = model.tokenizer.decode(row.input_ids)
        assert 0 < text.index("2 + 1 = 3.") < text.index(" + 1?", text.index("Final Answer: 3"))
    taught = {row.trace_id.partition("@")[0] for row in read}
    assert len(taught) == 4
    record = msgspec.json.decode((tmp_path / "out.manifest.json").read_bytes())
    assert record["inputs"]["few_shot"]["name"] == "shots.jsonl"
    assert record["stages"]["train"]["settings"]["few_shot"]
    read.clear()
    shots.write_text(SHOTS.replace("2 + 1 = 3", "so 3"))  # other examples, other scores
    refused = command(tiny, tmp_path, *how)
    assert refused.exit_code != 0
    assert isinstance(refused.exception, ResumeError)
    again = command(tiny, tmp_path, *how, "--overwrite")
    assert again.exit_code == 0, again.output
    assert {row.trace_id.partition("@")[0] for row in read} == taught
    assert all("so 3." in model.tokenizer.decode(row.input_ids) for row in read)


def test_the_command_takes_the_traces_of_a_run_with_the_runs_verdicts(tiny, other, tmp_path, teacher):  # noqa: F811
    pipeline.run(with_objective(tiny, "offline_kd", other), runs=tmp_path, quiet=True)
    run = tmp_path / "tiny"
    verdicts = rows(run / "3_verdicts.jsonl")
    verdicts[0]["status"] = "wrong"
    (run / "3_verdicts.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in verdicts))
    stored = (run / "2_scores.safetensors").stat().st_mtime_ns
    done = CliRunner().invoke(app, [
        "train", "--student_model", str(tiny), "--cot_dataset", str(run / "2_traces.jsonl"), "--output_dir",
        str(tmp_path / "out"), "--objective", "offline_kd", "--teacher_model", str(other), "--num_epochs", "1", "--quiet",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"{len(verdicts) - 1} traces teach" in done.output
    assert (run / "2_scores.safetensors").stat().st_mtime_ns == stored
    assert index_of_scores(run / "2_scores.safetensors")["teacher"].endswith(", float32, not 4-bit")
    assert not list(run.glob("2_traces.*.jsonl"))


@pytest.mark.parametrize(
    ("objective", "flags", "settings"),
    [
        ("on_policy", "--student_share 0.25 --beta 1 --top_k 8 --max_new_tokens 40",
         {"student_share": 0.25, "beta": 1.0, "top_k": 8, "max_new_tokens": 40}),
        ("offline_kd", "--teacher_weight 0.75 --top_k 8", {"weight": 0.75, "top_k": 8}),
    ],
)  # fmt: skip
def test_the_flags_of_an_objective_are_its_settings(tiny, other, tmp_path, monkeypatch, objective, flags, settings):
    seen = {}

    def nothing(*_, settings, **__):
        seen.update(msgspec.to_builtins(settings))
        return {"examples": 0, "steps": 0, "targets": "", "losses": [(0, 0.0)]}

    monkeypatch.setattr("cotdistill.stages.train.run_train", nothing)
    done = command(tiny, tmp_path, "--objective", objective, "--teacher_model", str(other), *flags.split())
    assert done.exit_code == 0, done.output
    assert seen[objective] == settings
    assert seen["objective"] == objective


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--objective", "on_policy"], "--teacher_model"),
        (["--objective", "reject_on_student"], "cotdistill run"),
        (["--objective", "auto"], "cotdistill run"),
        (["--objective", "step_by_step", "--alpha", "1"], "alpha between 0 and 1"),
        (["--teacher_model", "somebody"], "leave --teacher_model out"),
        (["--beta", "1"], "sft has no --beta"),
        (["--few_shot", "somewhere"], "sft has no --few_shot"),
        (["--objective", "offline_kd", "--teacher_model", "somebody", "--student_share", "1"], "no --student_share"),
    ],
)
def test_the_command_refuses_what_cannot_work(tiny, tmp_path, flags, said):
    refused = command(tiny, tmp_path, *flags)
    assert refused.exit_code != 0
    assert said in (refused.output + str(refused.exception))
    assert not (tmp_path / "out").exists()
