"""A whole run with ``objective: auto``: real trainings of the tiny model, answers as each test wants them."""

import io
import re

import msgspec
import pytest
from rich.console import Console

from cotdistill import pipeline
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import ResumeError, ServerAway, SetupError, TrainingError
from cotdistill.example import Example
from cotdistill.journal import write_rows
from cotdistill.recipe import decode_recipe
from cotdistill.report import from_json
from cotdistill.reporting.across import across
from cotdistill.reporting.table import print_report
from cotdistill.stages import teaching
from cotdistill.status import status_of
from cotdistill.storage.disk import write_atomic
from test_pipeline import recipe, solve, teacher  # noqa: F401

GOOD = {"sft_short": 5, "sft": 8, "step_by_step_short": 4, "step_by_step": 8, "student": 9}


def climbing(tiny, name="tiny", *, rungs=("sft", "step_by_step"), epochs=2, server=None, **train):
    config = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    settings = {"num_epochs": epochs, "batch_size": 8, "gradient_accumulation_steps": 1, "objective": "auto",
                "auto": {"dev_share": 0.5, "rungs": list(rungs)}, **train}  # fmt: skip
    made = recipe(tiny, name=name, train=settings, plan={"skip": True},
                  evaluate={"max_new_tokens": 24, "batch_size": 8, "teacher": False})  # fmt: skip
    plain = msgspec.to_builtins(made)
    for part, size, seed in (("train", 20, 1), ("held_out", 10, 2)):
        plain["questions"][part] = {"tasks": [{"name": "chain_sum", "size": size, "config": config}], "seed": seed}
    plain["questions"]["unseen"] = None
    if server:
        plain["models"] |= {"engine": "openai_server", "server": server}
    return decode_recipe(plain, "test")


@pytest.fixture
def skilled(monkeypatch):
    """Let each model answer so many of ten questions rightly; returns who was opened, in order, and asked what."""
    opened: list[tuple[str, ScriptedEngine]] = []

    def with_skills(**skills):
        def open_engine(spec, *, adapter=None, **_):
            name = "base" if adapter is None else "student" if adapter.name == "5_adapter" else adapter.parent.name
            places: dict[str, int] = {}
            skill = skills.get(name, 0)

            def answer(question):
                return solve(question) if places.setdefault(question, len(places)) % 10 < skill else "I do not know."

            opened.append((name, ScriptedEngine(answer)))
            return opened[-1][1]

        monkeypatch.setattr(pipeline, "open_engine", open_engine)
        return opened

    return with_skills


@pytest.fixture
def quick(monkeypatch):
    """Trainings that teach nothing and take no time; returns the stages that were owed, in order. A stage in
    ``broken`` raises what it says, once for an interrupt."""
    trained: list[str] = []
    broken: dict[str, BaseException] = {}

    def run_train(pairs, adapter, manifest, *, settings, examples_file, stage, overwrite, **_):
        manifest.claim(stage, {"train": settings.claimed}, overwrite=overwrite, files=[adapter], holds="directory")
        if manifest.done(stage):
            return
        trained.append(stage)
        if error := broken.get(stage):
            if isinstance(error, KeyboardInterrupt):
                del broken[stage]
            raise error
        manifest.begin(stage)
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            write_atomic(adapter / name, stage.encode())
        write_rows(examples_file, [Example(trace_id, question.id, [1, 2], 1) for trace_id, question, _ in pairs])
        manifest.finish(stage, tokens=2 * len(pairs), examples=len(pairs))

    monkeypatch.setattr(teaching, "run_train", run_train)
    return trained, broken


def rows(path):
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def stages(directory):
    return msgspec.json.decode((directory / "manifest.json").read_bytes())["stages"]


def test_the_winner_is_the_student_and_the_report_shows_every_rung(tiny, tmp_path, teacher, skilled):  # noqa: F811
    opened = skilled(**GOOD)
    report = pipeline.run(climbing(tiny, rungs=("sft", "step_by_step", "on_policy")), runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    ladder = report.details["ladder"]
    assert ladder["chosen"] == "sft"  # as many right as step_by_step, and cheaper
    assert [(rung["name"], rung["outcome"]) for rung in ladder["rungs"]] == [
        ("sft", "chosen"), ("step_by_step", "not_chosen"), ("on_policy", "refused"),
    ]  # fmt: skip
    assert "the same model" in ladder["rungs"][2]["why"]
    full, short = ladder["rungs"][0]["full"], ladder["rungs"][0]["short"]
    assert (full["right"], full["n"], full["gained"], full["lost"]) == (8, 10, 8, 0)
    assert (short["epochs"], full["epochs"]) == (1.0, 2.0)
    assert 0 < short["tokens"] < full["tokens"]
    assert full["seconds"] > 0
    for name in ("adapter_model.safetensors", "cotdistill.json"):
        assert (directory / "5_adapter" / name).read_bytes() == (directory / "rungs/sft/adapter" / name).read_bytes()
    assert report.verdict == "better"
    assert ladder["held_out"] == "agrees"
    assert from_json((directory / "7_report.json").read_bytes()) == report
    assert "ladder" not in report.details["train"]
    # The choice was made, and its student trained, before the first held-out question was put to anybody.
    assert [name for name, _ in opened] == [
        "base", "sft_short", "step_by_step_short", "sft", "step_by_step", "base", "student",
    ]  # fmt: skip
    held_out = {row["question"] for row in rows(directory / "1_held_out.jsonl")}
    before = {request.messages[-1].content for _, engine in opened[:5] for request in engine.requests}
    assert len(before) == 10
    assert not any(question in text for text in before for question in held_out)
    found = status_of(directory)
    assert found.done
    parts = {"train/rungs/sft_short", "train/rungs/sft", "evaluate/rungs/base", "evaluate/rungs/sft"}
    assert parts <= {one.name for one in found.stages}
    page = (directory / "7_report.html").read_text()
    assert "The ladder" in page
    assert "Chosen on 10 dev questions: sft, 8 right against the base&#39;s 0. The held-out questions agree." in page
    console = Console(width=80, file=io.StringIO())
    print_report(report, console)
    printed = console.file.getvalue()
    assert re.search(r"step_by_step, short +4/10 +4 +0 +0.12 +[\d,]+ +\d+ *\n", printed)
    assert re.search(r"sft +8/10 +8 +0 +0.0078 +[\d,]+ +\d+ +chosen", printed)
    assert "- on_policy: teacher and student are the same model" in printed


def test_no_dev_question_teaches_or_is_put_to_the_teacher(tiny, tmp_path, teacher, skilled, quick):  # noqa: F811
    skilled(**GOOD)
    pipeline.run(climbing(tiny, rungs=("sft",), epochs=1), runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    dev = {row["id"] for row in rows(directory / "1_dev.jsonl")}
    assert len(dev) == 10
    assert {row["id"] for row in rows(directory / "1_questions.jsonl")}.isdisjoint(dev)
    assert {row["question_id"] for row in rows(directory / "2_traces.jsonl")}.isdisjoint(dev)
    assert {row["question_id"] for row in rows(directory / "rungs/sft/examples.jsonl")}.isdisjoint(dev)
    assert stages(directory)["questions"]["facts"]["dev"] == 10


def test_where_no_rung_beats_the_base_it_is_kept_whatever_the_held_out_questions_say(
    tiny, tmp_path, teacher, skilled, quick  # noqa: F811
):  # fmt: skip
    skilled(base=3, sft_short=3, sft=4, step_by_step_short=3, step_by_step=4, student=10)
    report = pipeline.run(climbing(tiny), runs=tmp_path, quiet=True)
    ladder = report.details["ladder"]
    assert (ladder["chosen"], ladder["shown"]) == ("base", "sft")
    assert report.paired.p_value < 0.05
    assert report.verdict == "not_shown"
    assert report.sentence.startswith("Keep the base:")
    assert across([tmp_path / "tiny"]).runs[0].verdict == "not_shown"
    assert ladder["held_out"] == "disagrees"


def test_losers_are_dropped_after_their_short_training(tiny, tmp_path, teacher, skilled, quick):  # noqa: F811
    opened = skilled(base=6, sft_short=2, step_by_step_short=1)
    report = pipeline.run(climbing(tiny), runs=tmp_path, quiet=True)
    ladder = report.details["ladder"]
    assert [(rung["outcome"], rung["full"]) for rung in ladder["rungs"]] == [("dropped", None), ("dropped", None)]
    assert ladder["shown"] == "sft_short"
    assert [name for name, _ in opened] == ["base", "sft_short", "step_by_step_short", "base", "student"]
    assert ladder["held_out"] == "agrees"


def test_a_run_killed_between_rungs_goes_on_where_it_was(tiny, tmp_path, teacher, skilled, quick):  # noqa: F811
    opened, (trained, broken) = skilled(**GOOD), quick
    broken["train/rungs/step_by_step_short"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(climbing(tiny), runs=tmp_path, quiet=True)
    owed = status_of(tmp_path / "tiny")
    assert not owed.done
    assert {one.name: one.done for one in owed.stages if one.name.startswith("train/rungs/")} == {
        "train/rungs/sft_short": True, "train/rungs/step_by_step_short": False,
    }  # fmt: skip
    assert trained == ["train/rungs/sft_short", "train/rungs/step_by_step_short"]
    trained.clear()
    pipeline.run(climbing(tiny), runs=tmp_path, quiet=True)
    assert trained == ["train/rungs/step_by_step_short", "train/rungs/sft", "train/rungs/step_by_step"]
    assert [name for name, _ in opened].count("sft_short") == 1
    asked = len(opened)
    trained.clear()
    pipeline.run(climbing(tiny), runs=tmp_path, quiet=True)
    assert (len(opened), trained) == (asked, [])
    pipeline.run(climbing(tiny), runs=tmp_path, overwrite=True, quiet=True)
    assert len(trained) == 4


def test_a_rung_that_fails_is_a_row_and_the_others_go_on(tiny, tmp_path, teacher, skilled, quick):  # noqa: F811
    skilled(**GOOD)
    quick[1].update({stage: RuntimeError("out of\nmemory") for stage in ("train/rungs/sft", "train/rungs/sft_short")})
    report = pipeline.run(climbing(tiny), runs=tmp_path, quiet=True)
    first, second = report.details["ladder"]["rungs"]
    assert (first["outcome"], first["why"], first["short"]) == ("failed", "RuntimeError: out of memory", None)
    assert second["outcome"] == "chosen"
    assert report.models["student_label"].n == 10  # the student of this objective answers without reasoning, too
    assert status_of(tmp_path / "tiny").done
    with pytest.raises(TrainingError, match=r"no rung of the ladder could be trained \(sft: RuntimeError: out of memory"):
        pipeline.run(climbing(tiny, "all", rungs=("sft",)), runs=tmp_path, quiet=True)


def test_own_samples_that_add_nothing_are_no_rung(tiny, tmp_path, teacher, skilled, quick):  # noqa: F811
    skilled(**GOOD)
    report = pipeline.run(climbing(tiny, rungs=("sft", "reject_on_student"), epochs=1), runs=tmp_path, quiet=True)
    assert "this would be sft again" in report.details["ladder"]["rungs"][1]["why"]


def test_other_settings_are_refused_and_more_rungs_are_not_while_it_is_owed(
    tiny, tmp_path, teacher, skilled, quick, monkeypatch  # noqa: F811
):  # fmt: skip
    skilled(**GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "put_in_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(climbing(tiny, rungs=("sft",), epochs=1), runs=tmp_path, quiet=True)
    with pytest.raises(ResumeError, match=r"train.learning_rate: 0.0002 -> 0.001"):
        pipeline.run(climbing(tiny, rungs=("sft",), epochs=1, learning_rate=0.001), runs=tmp_path, quiet=True)
    both = pipeline.run(climbing(tiny, epochs=1), runs=tmp_path, quiet=True)
    assert [rung["name"] for rung in both.details["ladder"]["rungs"]] == ["sft", "step_by_step"]
    with pytest.raises(ResumeError, match=r"train.auto.rungs"):
        pipeline.run(climbing(tiny, rungs=("sft",), epochs=1), runs=tmp_path, quiet=True)


def test_a_ladder_where_no_rung_can_work_is_refused_before_the_teacher_is_asked(tiny, tmp_path, teacher):  # noqa: F811
    with pytest.raises(SetupError, match=r"no rung of the ladder can work: on_policy: .* the same model"):
        pipeline.run(climbing(tiny, rungs=("on_policy",)), runs=tmp_path, quiet=True)
    assert teacher == []


def test_a_rung_whose_server_is_away_is_no_rung_that_cannot_work(
    tiny, tmp_path, teacher, skilled, quick, monkeypatch  # noqa: F811
):
    skilled(**GOOD)
    away = []

    def check(*_, **__):
        away.append(True)
        raise ServerAway("cannot be reached")

    monkeypatch.setattr(teaching, "fitting", lambda *_, **__: None)
    monkeypatch.setattr(teaching, "check_served", check)
    recipe = climbing(tiny, rungs=("sft", "on_policy"))
    with pytest.raises(ServerAway):
        pipeline.run(recipe, runs=tmp_path, quiet=True)
    assert away
    assert teacher == []
    monkeypatch.setattr(teaching, "check_served", lambda *_, **__: None)
    trained = quick[0]
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "put_in_place", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, runs=tmp_path, quiet=True)
    before = len(trained)
    monkeypatch.setattr(teaching, "check_served", check)  # away again, and no longer needed
    report = pipeline.run(recipe, runs=tmp_path, quiet=True)
    assert "refused" not in [rung["outcome"] for rung in report.details["ladder"]["rungs"]]
    assert len(trained) == before
