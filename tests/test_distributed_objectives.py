"""Objectives in several processes: two tasks are weighed over the rows of all of them, as in one process."""

import json
import sys

import pytest

from test_distributed import command, farthest, finish, launch, project, start  # noqa: F401


def test_two_processes_train_step_by_step_as_one_does(project):  # noqa: F811
    words = {"objective": "step_by_step", "alpha": 0.3}
    code, _, err = finish(start(project, [sys.executable, *command("one", **words)]))
    assert code == 0, err
    code, _, err = launch(project, command("two", **words))
    assert code == 0, err
    one, two = (
        json.loads((project / f"results/{name}.manifest.json").read_text())["stages"]["train"]["facts"]["terms"]
        for name in ("one", "two")
    )
    for name, measured in one.items():
        assert [nats for _, nats in two[name]] == pytest.approx([nats for _, nats in measured], abs=1e-4)
    assert farthest(project / "results/one", project / "results/two") < 1e-4


def test_an_objective_with_a_teacher_is_refused_in_several_processes(project):  # noqa: F811
    code, _, err = launch(project, command("none", objective="on_policy", teacher_model="models/student"))
    assert code != 0
    assert "on_policy is the work of one process" in err
