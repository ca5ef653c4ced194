"""What status says of runs and outputs, finished, cut off and being written."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotdistill import pipeline
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import DataError
from cotdistill.reporting.publication import publish
from cotdistill.status import Status, status_of
from cotdistill.storage.lock import locked
from cotdistill.storage.manifest import Manifest
from test_cli import cotdistill
from test_pipeline import recipe, solve

STAGES = [
    "questions", "plan", "generate", "verify", "train", "evaluate/base", "evaluate/unseen/base", "evaluate/student",
    "evaluate/unseen/student", "evaluate/teacher", "evaluate/unseen/teacher", "report",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``runs/tiny``, finished, and ``runs/cut``, whose teacher was interrupted after four of six questions."""
    root = tmp_path_factory.mktemp("runs")
    asked: list[str] = []

    def interrupted(question: str) -> str:
        asked.append(question)
        if len(asked) == 5:
            raise RuntimeError("the server is away")
        if len(asked) == 6:
            raise KeyboardInterrupt
        return solve(question)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
        pipeline.run(recipe(tiny), runs=root, quiet=True)
        patch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(interrupted))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe(tiny, name="cut"), runs=root, quiet=True)
    return root


@pytest.fixture
def cut(runs: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run, to be spoilt."""
    return Path(shutil.copytree(runs / "cut", tmp_path / "cut"))


def stage(found: Status, name: str):
    return next(stage for stage in found.stages if stage.name == name)


def test_a_finished_run_owes_nothing(runs):
    found = status_of(runs / "tiny")
    assert [stage.name for stage in found.stages] == STAGES
    assert found.done
    assert all(stage.done for stage in found.stages)
    assert found.holder is None
    assert (stage(found, "generate").planned, stage(found, "generate").present) == (6, 6)
    assert (stage(found, "evaluate/unseen/base").planned, stage(found, "evaluate/base").present) == (2, 5)
    assert found.completion_tokens == sum(stage.completion_tokens for stage in found.stages) > 0
    assert found.started <= found.finished
    assert found.next == f"cotdistill report {runs / 'tiny'}"


def test_an_interrupted_run_says_what_is_owed_and_how_to_go_on(runs):
    found = status_of(runs / "cut")
    generate = stage(found, "generate")
    assert [s.name for s in found.stages] == STAGES
    assert (generate.done, generate.planned, generate.present, generate.failed, generate.missing) == (False, 6, 5, 1, 1)
    assert stage(found, "evaluate/base").missing == 5
    assert found.finished is None
    assert not stage(found, "verify").done
    assert found.next == f"cotdistill run {runs / 'cut/recipe.yaml'} --runs {runs}"


def test_the_next_command_finishes_the_run(cut, tiny, monkeypatch):
    from cotdistill.recipe import load_recipe

    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
    words = status_of(cut).next.split()
    pipeline.run(load_recipe(Path(words[2])), runs=Path(words[4]), quiet=True)
    assert status_of(cut).done


def test_a_line_that_is_being_written_is_not_counted_and_not_touched(cut):
    before = [(s.name, s.done, s.present, s.failed, s.missing) for s in status_of(cut).stages]
    with (cut / "2_traces.jsonl").open("ab") as file:
        file.write('{"id": "half#0", "question": "é'.encode()[:-1])
    content = (cut / "2_traces.jsonl").read_bytes()
    assert [(s.name, s.done, s.present, s.failed, s.missing) for s in status_of(cut).stages] == before
    assert (cut / "2_traces.jsonl").read_bytes() == content


def test_every_way_to_ask_that_the_recipe_names_is_owed(cut):
    manifest = Manifest.open(cut / "manifest.json")
    noted = manifest.noted("recipe")
    more = {"baselines": ["zero", "native"], "answer_only": True}
    manifest.note(recipe={
        **noted, "train": {**noted["train"], "objective": "step_by_step"}, "evaluate": {**noted["evaluate"], **more},
    })  # fmt: skip
    found = {s.name: s.missing for s in status_of(cut).stages if s.name.startswith("evaluate/")}
    assert found == {
        "evaluate/base": 5, "evaluate/unseen/base": 2, "evaluate/base_native": 5, "evaluate/student": 5,
        "evaluate/unseen/student": 2, "evaluate/student_label": 5, "evaluate/answer_only": 5, "evaluate/teacher": 5,
        "evaluate/unseen/teacher": 2,
    }  # fmt: skip


def test_who_is_at_work_is_named_with_what_to_do(cut):
    with locked(cut):
        found = status_of(cut)
        assert found.holder_state == "running"
        assert found.next.startswith(f"process {os.getpid()} is working on it")
    lock = cut.with_name("cut.lock")
    lock.write_text('{"host": "elsewhere", "pid": 7, "started": "2025-03-01T12:00:00+00:00"}')
    assert status_of(cut).next.endswith("--break_lock")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with locked(cut.with_name("other")):
        mine = json.loads(cut.with_name("other.lock").read_bytes())
    lock.write_text(json.dumps({**mine, "pid": process.pid}))
    assert status_of(cut).holder_state == "gone"
    assert lock.exists()


def test_an_unfinished_training_says_up_to_which_step_it_is_safe(cut):
    record = cut / "5_adapter/checkpoints/complete.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"run": "x", "checkpoints": {"checkpoint-9": {}, "checkpoint-10": {}}}')
    assert stage(status_of(cut), "train").note == "saved up to step 10"
    record.write_text("[]")
    assert stage(status_of(cut), "train").note == ""


def test_the_students_own_samples_are_listed_and_their_tokens_counted(cut):
    before = status_of(cut)
    file, manifest = cut / "2_student_traces.jsonl", Manifest.open(cut / "manifest.json")
    manifest.claim("generate/student", {}, overwrite=False, files=[file])
    manifest.begin("generate/student", planned=3)
    file.write_text(json.dumps({
        "id": "a#0", "question_id": "a", "question": "a?", "reasoning": "x", "finish": "stop", "prompt_tokens": 5,
        "completion_tokens": 7,
    }) + "\n")  # fmt: skip
    found = status_of(cut)
    own = stage(found, "generate/student")
    assert (own.done, own.planned, own.present, own.missing) == (False, 3, 1, 2)
    assert found.prompt_tokens - before.prompt_tokens == 5
    assert found.completion_tokens - before.completion_tokens == 7


def test_money_is_counted_while_it_is_spent(cut):
    manifest = Manifest.open(cut / "manifest.json")
    noted = manifest.noted("recipe")
    server = {"base_url": "http://localhost:1/v1", "price_prompt": 1e6, "price_completion": 0.0}
    manifest.note(recipe={**noted, "models": {**noted["models"], "server": server, "engine": "auto"}})
    found = status_of(cut)
    assert found.money == stage(found, "generate").money == stage(found, "generate").prompt_tokens > 0


def test_an_output_of_a_command_has_a_status_too(tmp_path):
    manifest = Manifest.open(tmp_path / "cot.manifest.json")
    manifest.claim("generate", {}, overwrite=False, files=[tmp_path / "cot.jsonl"])
    manifest.begin("generate", planned=3)
    row = {"id": "a#0", "question_id": "a", "question": "a?", "reasoning": "x", "finish": "stop"}
    (tmp_path / "cot.jsonl").write_text(json.dumps(row) + "\n")
    found = status_of(tmp_path / "cot.jsonl")
    assert [(s.name, s.done, s.planned, s.missing) for s in found.stages] == [
        ("generate", False, 3, 2),
        ("verify", False, 1, 1),
    ]
    assert found.next == "run the same generate command again"


def test_a_path_without_a_record_and_a_damaged_file_are_one_sentence(cut, tmp_path):
    with pytest.raises(DataError, match="has no manifest; name a run directory"):
        status_of(tmp_path / "nowhere")
    (cut / "2_traces.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(DataError, match=r"2_traces\.jsonl:1"):
        status_of(cut)


def test_the_command_prints_a_table_or_json_quickly_and_without_torch(runs):
    shown = cotdistill("status", str(runs / "cut"))
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].endswith("1 of 12 stages done")
    assert lines[-1].startswith("next: cotdistill run ")
    assert json.loads(cotdistill("status", str(runs / "cut"), "--json").stdout)["stages"][2]["missing"] == 1
    code = (
        "import sys; from pathlib import Path; from cotdistill.status import status_of; "
        f"status_of(Path({str(runs / 'tiny')!r})); "
        "print([m for m in ('torch', 'transformers', 'scipy', 'accelerate') if m in sys.modules])"
    )
    assert cotdistill(code=code).stdout.strip() == "[]"
    took = []
    for _ in range(5):  # the quickest: another test may hold the core
        start = time.monotonic()
        status_of(runs / "tiny")
        took.append(time.monotonic() - start)
    assert min(took) < 0.5


def test_the_next_command_of_a_renamed_or_copied_run_goes_on_with_that_one(cut, tmp_path, monkeypatch):
    renamed = cut.rename(tmp_path / "second")
    assert status_of(renamed).next == f"cotdistill run {renamed}/recipe.yaml --runs {tmp_path} --name second"
    monkeypatch.chdir(renamed)
    assert status_of(Path(".")).next == f"cotdistill run recipe.yaml --runs {tmp_path} --name second"
    (tmp_path / "runs").mkdir()
    renamed.rename(tmp_path / "runs/third")
    monkeypatch.chdir(tmp_path)
    assert status_of(Path("runs/third")).next == "cotdistill run runs/third/recipe.yaml --name third"


@pytest.fixture
def finished(runs: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(runs / "tiny", tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("file", "owed"),
    [
        ("1_held_out.jsonl", "questions"), ("2_traces.jsonl", "generate"),
        ("5_adapter/adapter_model.safetensors", "train"), ("6_predictions/student.jsonl", "evaluate/student"),
    ],
)  # fmt: skip
def test_a_finished_stage_without_its_file_is_owed_and_the_file_named(finished, file, owed):
    (finished / file).unlink()
    found = status_of(finished)
    assert not stage(found, owed).done
    assert stage(found, owed).note == f"{Path(file).name} is gone"
    assert found.next == f"cotdistill run {finished}/recipe.yaml --runs {finished.parent}"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("6_predictions/student.jsonl", "student.jsonl is gone, and no report is made without it; this asks again"),
        ("6_predictions/unseen/base.jsonl", "base.jsonl is gone"),
        ("1_held_out.jsonl", "1_held_out.jsonl is gone; this makes it again"),
        ("recipe.yaml", "recipe.yaml is gone; this makes it again: cotdistill run RECIPE --runs "),
        ("manifest.json", "put it back, or start anew: cotdistill run "),
    ],
)
def test_a_report_without_a_file_that_was_there_leaves_the_old_one_and_says_what_brings_it_back(finished, file, said):
    before = (finished / "7_report.json").read_bytes()
    (finished / file).unlink()
    with pytest.raises(DataError, match=said):
        publish(finished)
    assert (finished / "7_report.json").read_bytes() == before


def test_the_status_of_a_run_without_its_manifest_says_so(finished):
    (finished / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is gone, .* start anew: cotdistill run .* --overwrite"):
        status_of(finished)


def test_an_adapter_that_has_lost_its_weights_is_trained_again(finished, monkeypatch):
    from cotdistill.recipe import load_recipe

    weights = finished / "5_adapter/adapter_model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
    pipeline.run(load_recipe(finished / "recipe.yaml"), runs=finished.parent, quiet=True)
    assert weights.read_bytes() == before
    assert status_of(finished).done
