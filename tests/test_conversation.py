"""Base and student of a run, side by side."""

import io
import sys

import pytest

from conftest import on_cpu, teach
from cotdistill.adapter import load_adapter
from cotdistill.conversation import converse, show, streamed
from cotdistill.engines import Request, Sampling
from cotdistill.engines.transformers_engine import TransformersEngine
from cotdistill.errors import DataError
from cotdistill.prompt import messages_for
from cotdistill.question import Question


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run directory with what a conversation needs."""
    directory = tmp_path_factory.mktemp("run")
    teach(tiny, directory / "5_adapter", learning_rate=0.05, num_epochs=4)
    source = "{tasks: [{name: chain_sum, size: 1}]}"
    text = f"name: run\nmodels: {{teacher: {tiny}, student: {tiny}}}\nquestions: {{train: {source}, held_out: {source}}}\n"
    (directory / "recipe.yaml").write_text(text)
    return directory


def test_both_answer_as_they_do_when_evaluated_though_their_steps_take_turns(tiny, run):
    request = Request("q", messages_for(Question("q", "What is 2 + 2?"), "Add."))
    sampling = Sampling(max_new_tokens=24)
    model = on_cpu(tiny)
    [base] = TransformersEngine(model).complete([request], sampling)
    adapted = load_adapter(model, run / "5_adapter")
    [student] = TransformersEngine(model, module=adapted).complete([request], sampling)
    prompt = model.template.prompt_ids(request.messages)
    texts = {True: "", False: ""}
    voices = {as_base: streamed(model, adapted, prompt, 24, as_base=as_base) for as_base in texts}
    while voices:
        for as_base, pieces in list(voices.items()):
            piece = next(pieces, None)
            if piece is None:
                del voices[as_base]
            else:
                texts[as_base] += piece
    assert texts == {True: base.text, False: student.text}
    assert base.text != student.text


def test_pieces_come_whole_and_are_made_safe_as_they_come():
    out = io.StringIO()
    show({"student": iter(["1 + 1", "\x1b[2J", "\n= 2"])}, out)
    assert out.getvalue() == "1 + 1\\x1b[2J\n= 2\n"


def test_on_a_terminal_both_stand_beside_each_other_without_markup_or_escapes():
    out = Terminal()
    show({"base": iter(["[bold]four", "\x1b]0;x\x07"]), "student": iter(["2 + 2 = 4"])}, out)
    last = next(line for line in reversed(out.getvalue().splitlines()) if line.strip() and "four" in line)
    assert "[bold]four\\x1b]0;x\\x07" in last
    assert "2 + 2 = 4" in last


@pytest.mark.parametrize(("asked", "said"), [({}, ["base:", "student:"]), ({"base": False}, [])])
def test_each_line_is_a_question_and_an_empty_one_ends_it(run, monkeypatch, capsys, asked, said):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is 1 + 1?\n\nnever asked\n"))
    converse(run, **asked, max_new_tokens=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("base:", "student:")] == said


def test_a_run_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(DataError, match="no trained adapter"):
        converse(tmp_path, max_new_tokens=1)
