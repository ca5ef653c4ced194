"""What diff says of two runs: what they were made with, and what came out otherwise."""

import json
from pathlib import Path

import pytest

from cotdistill import pipeline
from cotdistill.difference import MOST_LISTED, difference
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import DataError
from cotdistill.journal import write_rows
from cotdistill.storage.manifest import Manifest
from cotdistill.verdict import Verdict
from test_cli import cotdistill
from test_pipeline import recipe, solve


@pytest.fixture(scope="module")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one`` and ``two``: in the second the teacher is wrong at first, and the learning rate is another one."""
    root = tmp_path_factory.mktemp("runs")
    asked: list[str] = []

    def wrong_at_first(question: str) -> str:
        asked.append(question)
        return "Final Answer: 999" if len(asked) == 1 else solve(question)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(solve))
        pipeline.run(recipe(tiny, name="one"), runs=root, quiet=True)
        patch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(wrong_at_first))
        other = {"num_epochs": 1, "batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 1e-3}
        pipeline.run(recipe(tiny, name="two", train=other), runs=root, quiet=True)
    return root


def test_settings_that_differ_are_named_once_with_both_values(runs):
    settings = {key: (a, b) for key, a, b in difference(runs / "one", runs / "two").settings}
    assert settings.pop("train.learning_rate") == ("0.0002", "0.001")
    assert {key.rpartition(".")[2] for key in settings} == {"examples", "adapter"}  # what follows from them


def test_a_trace_whose_verdict_changed_is_counted_and_listed(runs):
    found = difference(runs / "one", runs / "two").verdicts
    assert found.counts == {"correct": (6, 5), "wrong": (0, 1)}
    assert (found.changed, found.only_a, found.only_b) == (1, 0, 0)
    assert found.listed[0][1:] == ("correct", "wrong")


def test_a_question_that_is_answered_otherwise_is_counted_per_model(runs, tmp_path):
    path = runs / "two/6_predictions/teacher.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    before = path.read_bytes()
    rows[0] |= {"correct": False, "answer": "0"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    try:
        models = difference(runs / "one", runs / "two").models
    finally:
        path.write_bytes(before)
    teacher = models["teacher"]
    assert (teacher.both, teacher.gained, teacher.lost, teacher.only_a, teacher.only_b) == (4, 0, 1, 1, 0)
    assert teacher.listed == [(rows[0]["question_id"], "right", "wrong")]
    assert models["unseen/base"].both == 2


def test_a_run_does_not_differ_from_itself(runs):
    found = difference(runs / "one", runs / "one")
    assert (found.settings, found.inputs, found.machine, found.verdicts.changed) == ([], [], [], 0)


def outputs(directory: Path, name: str, statuses: list[str], **notes: object) -> Path:
    """An output of ``generate`` with these verdicts."""
    path = directory / f"{name}.jsonl"
    manifest = Manifest.open(directory / f"{name}.manifest.json")
    manifest.claim("generate", {"sampling": {"temperature": len(name) / 10}}, overwrite=False, files=[path])
    manifest.note(**notes)
    write_rows(directory / f"{name}.verdicts.jsonl", [Verdict(f"q{i}#0", status) for i, status in enumerate(statuses)])
    return path


def test_outputs_are_compared_too_and_at_most_twenty_are_listed(tmp_path):
    a = outputs(tmp_path, "a", ["wrong"] * 30, inputs={"input_file": {"sha256": "1"}}, versions={"torch": "2.1"})
    b = outputs(tmp_path, "bb", ["correct"] * 31, inputs={"input_file": {"sha256": "2"}}, versions={"torch": "2.2"})
    found = difference(a, b)
    assert found.settings == [("generate.sampling.temperature", "0.1", "0.2")]
    assert found.inputs == [("input_file.sha256", "'1'", "'2'")]
    assert found.machine == [("versions.torch", "'2.1'", "'2.2'")]
    assert (found.verdicts.changed, found.verdicts.only_b) == (30, 1)
    assert len(found.verdicts.listed) == MOST_LISTED


def test_the_command_prints_lines_or_json_without_torch(runs):
    one, two = str(runs / "one"), str(runs / "two")
    shown = cotdistill("diff", one, two)
    assert shown.returncode == 0, shown.stderr
    assert "  train.learning_rate: 0.0002 -> 0.001" in shown.stdout.splitlines()
    assert "  correct: 6 -> 5" in shown.stdout.splitlines()
    assert json.loads(cotdistill("diff", one, two, "--json").stdout)["verdicts"]["changed"] == 1
    code = (
        "import sys; from pathlib import Path; from cotdistill.difference import difference; "
        f"difference(Path({one!r}), Path({two!r})); print('torch' in sys.modules)"
    )
    assert cotdistill(code=code).stdout.strip() == "False"


def test_what_has_no_record_is_one_sentence(runs, tmp_path):
    with pytest.raises(DataError, match="nowhere has no manifest"):
        difference(runs / "one", tmp_path / "nowhere")
