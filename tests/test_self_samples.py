"""Self samples: only what the student got right, and what was confirmed, teaches it."""

import msgspec
import pytest

from cotdistill import pipeline
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.engines.server import Server
from cotdistill.errors import DataError
from cotdistill.journal import write_rows
from cotdistill.question import Question
from cotdistill.settings.models import Models
from cotdistill.settings.verify import Verify
from cotdistill.stages import teaching
from cotdistill.stages.self_samples import TRACES, VERDICTS, own_pairs, refuse_unconfirmed
from cotdistill.stages.train import run_train
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict
from test_pipeline import recipe, solve

WRONG = "1 + 1 = 2.\nFinal Answer: 999"


@pytest.fixture
def engines(monkeypatch):
    """Every teacher and every sampled student that gets opened: the teacher is right on some questions, the student
    once in two samples."""
    opened = []

    def open_engine(models, *_):
        counts: dict[str, int] = {}

        def student(question):
            counts[question] = counts.get(question, 0) + 1
            return solve(question) if counts[question] % 2 else WRONG

        opened.append(ScriptedEngine(student if models.server == "own" else lambda q: solve(q) if hits(q) else WRONG))
        return opened[-1]

    def hits(question):
        return sum(map(ord, question)) % 2 == 0

    monkeypatch.setattr(pipeline, "engine_for", lambda models, batch, questions, generate, *_: open_engine(
        msgspec.structs.replace(models, server="own") if generate.num_samples > 1 else models))  # fmt: skip
    return opened


def rows(path):
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def reject(tiny, **options):
    train = {"num_epochs": 1, "batch_size": 2, "gradient_accumulation_steps": 1, "objective": "reject_on_student"}
    settings = {"num_samples": 4, "temperature": 0.9, **options}
    return recipe(tiny, train={**train, "reject_on_student": settings}, evaluate={"max_new_tokens": 24, "teacher": False},
                  plan={"skip": True})  # fmt: skip


def test_the_students_right_answers_are_added_where_the_teachers_traces_failed(tiny, tmp_path, engines):
    pipeline.run(reject(tiny), runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    verdicts = {row["trace_id"]: row["status"] for row in rows(directory / "3_verdicts.jsonl")}
    failed = {trace.split("#")[0] for trace, status in verdicts.items() if status != "correct"}
    assert 0 < len(failed) < 6
    own = rows(directory / "2_student_traces.jsonl")
    assert {row["question_id"] for row in own} == failed
    assert len(own) == 4 * len(failed)
    right = [row["trace_id"] for row in rows(directory / "3_student_verdicts.jsonl") if row["status"] == "correct"]
    assert 0 < len(right) < len(own)
    taught = {row["trace_id"] for row in rows(directory / "4_examples.jsonl")}
    assert taught == {f"{trace}/student" for trace in right} | {t for t, s in verdicts.items() if s == "correct"}


def test_alone_the_student_is_asked_everything_and_no_trace_of_the_teacher_teaches(tiny, tmp_path, engines):
    pipeline.run(reject(tiny, alone=True), runs=tmp_path, quiet=True)
    taught = {row["trace_id"] for row in rows(tmp_path / "tiny/4_examples.jsonl")}
    assert taught
    assert all(trace.endswith("/student") for trace in taught)
    assert len(rows(tmp_path / "tiny/2_student_traces.jsonl")) == 24


def test_running_again_samples_nothing_again(tiny, tmp_path, engines):
    first = pipeline.run(reject(tiny), runs=tmp_path, quiet=True)
    opened = len(engines)
    assert pipeline.run(reject(tiny), runs=tmp_path, quiet=True) == first
    assert len(engines) == opened


def test_samples_that_were_cut_off_are_gone_on_with(tiny, tmp_path, engines, monkeypatch):
    monkeypatch.setattr(teaching, "run_train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(reject(tiny), runs=tmp_path, quiet=True)
    path = tmp_path / "tiny/2_student_traces.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-3]) + whole[-3][:9])
    monkeypatch.setattr(teaching, "run_train", run_train)
    pipeline.run(reject(tiny), runs=tmp_path, quiet=True)
    assert sorted(row["id"] for row in rows(path)) == sorted(msgspec.json.decode(line)["id"] for line in whole)
    assert len(engines[-1].requests) == 3


def test_what_is_merely_unchecked_does_not_teach_the_student_what_it_does_anyway(tmp_path):
    question = Question("a", "What is 1 + 1?")
    traces = [Trace(f"a#{i}", "a", question.text, f"1 + 1 = 2.\nFinal Answer: {i}") for i in range(4)]
    statuses = ("unchecked", "agrees", "correct", "wrong")
    write_rows(tmp_path / TRACES, traces)
    write_rows(tmp_path / VERDICTS, [Verdict(f"a#{i}", status, str(i)) for i, status in enumerate(statuses)])
    assert [trace_id for trace_id, _, _ in own_pairs([question], tmp_path)] == ["a#1/student", "a#2/student"]


def test_the_student_is_sampled_alone_whatever_the_teachers_ran_on():
    rays = Models("large", "small", engine="ray:llama_cpp", workers=2, second_teacher="larger", trust_remote_code=True)
    assert rays.student_as_teacher == Models("small", "small", trust_remote_code=True)
    served = Models("large", "small", server=Server("http://one/v1"), second_teacher="larger",
                    second_server=Server("http://two/v1"))  # fmt: skip
    assert served.student_as_teacher == Models("small", "small")


def test_without_anything_that_tells_right_from_wrong_it_is_refused():
    unknown = [Question("a", "What?"), Question("b", "Who?")]
    with pytest.raises(DataError, match="needs to know which answers are right"):
        refuse_unconfirmed(unknown, Verify())
    refuse_unconfirmed(unknown, Verify(vote=True))
    refuse_unconfirmed([*unknown, Question("c", "1 + 1?", "2")], Verify())
