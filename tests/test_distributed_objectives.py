"""Objectives in several processes: two tasks are weighed over the rows of all of them, as in one process."""

import json
import shutil

import pytest

from conftest import index_of_scores, make_examples, make_model
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.on_policy import OnPolicy
from cotdistill.learning.order import blank
from cotdistill.learning.ranks import Ranks
from test_distributed import (  # noqa: F401
    command,
    farthest,
    finish,
    free_port,
    launch,
    launcher,
    project,
    start,
    train_here,
)  # fmt: skip
from test_loss import adapted
from test_on_policy import Likes, settings
from test_terms import assert_same_terms


def test_two_processes_train_step_by_step_as_one_does(project):  # noqa: F811
    words = {"objective": "step_by_step", "alpha": 0.3}
    train_here(project, "one", **words)
    code, _, err = launch(project, command("two", **words))
    assert code == 0, err
    one, two = (
        json.loads((project / f"results/{name}.manifest.json").read_text())["stages"]["train"]["facts"]["terms"]
        for name in ("one", "two")
    )
    assert_same_terms(two, one, abs=1e-4)
    assert farthest(project / "results/one", project / "results/two") < 1e-4


@pytest.mark.parametrize(
    ("objective", "words"), [("offline_kd", {"teacher_weight": 0.4}), ("on_policy", {"student_share": 0.0})]
)
def test_two_processes_share_the_teachers_work_and_train_as_one_does(project, objective, words):  # noqa: F811
    teacher = project / "models/teacher"
    if not teacher.exists():
        make_model(teacher, seed=7)
    words = {"objective": objective, "teacher_model": str(teacher), "top_k": 8, "num_epochs": 2, **words}
    words["limit"] = 9  # of the second step, a single row, the second process has none
    scores = project / "data/cot.scores.safetensors"
    train_here(project, "alone", **words)
    if objective == "offline_kd":
        alone = index_of_scores(scores)["rows"]
        scores.unlink()
    (project / "writes").unlink(missing_ok=True)
    code, _, err = launch(project, command("shared", **words))
    assert code == 0, err
    if objective == "offline_kd":
        assert index_of_scores(scores)["rows"].keys() == alone.keys()
        written = (project / "writes").read_text().splitlines()
        assert any(line.startswith("0 ") and "scores" in line for line in written)
        assert not any(line.startswith("1 ") for line in written)  # the second process writes nothing
    one, two = (
        json.loads((project / f"results/{name}.manifest.json").read_text())["stages"]["train"]["facts"]
        for name in ("alone", "shared")
    )
    assert two["processes"] == 2
    assert_same_terms(two["terms"], one["terms"], abs=1e-3)
    assert farthest(project / "results/alone", project / "results/shared") < 1e-3
    for name in ("alone", "shared"):
        shutil.rmtree(project / f"results/{name}", ignore_errors=True)
        (project / f"results/{name}.manifest.json").unlink(missing_ok=True)


def test_what_is_drawn_depends_on_the_process(tiny, monkeypatch):
    model, module = adapted(tiny)
    rows = [*make_examples(model, 4), blank(model.template.pad_id)]
    terms = OnPolicy(
        AnswerLoss(module, model.template.pad_id, packed=True, chunked=True), module, model=model, teacher=Likes(),
        settings=settings(), max_length=300, seed=1,
    )  # fmt: skip
    first = terms.rows(rows, 1)
    monkeypatch.setattr("cotdistill.learning.on_policy.here", lambda: Ranks(1, 1))
    second = terms.rows(rows, 1)
    assert first[-1] == second[-1] == rows[-1]  # what fills the step up stays blank
    assert terms.counts(second)[0] == 0
    assert all(one.input_ids != other.input_ids for one, other in zip(first[:4], second[:4], strict=True))


def test_each_process_writes_answers_of_its_own(project):  # noqa: F811
    make_model(project / "models/other", seed=8)
    words = {"objective": "on_policy", "teacher_model": "models/other", "student_share": 1.0, "max_new_tokens": 6}
    code, _, err = launch(project, command("written", **words, num_epochs=1))
    assert code == 0, err
    facts = json.loads((project / "results/written.manifest.json").read_text())["stages"]["train"]["facts"]
    assert [step for step, _ in facts["terms"]["samples"]] == [1, 2]
    assert "traces" not in facts["terms"]


def test_a_student_in_parts_cannot_write_while_it_trains(project):  # noqa: F811
    words = command("none", objective="on_policy", teacher_model="models/student")
    code, _, err = finish(start(project, [*launcher(free_port(), "--nproc_per_node", "2"), *words],
                                ACCELERATE_USE_FSDP="true"))  # fmt: skip
    assert code != 0
    assert "launch it with ddp.yaml" in err
