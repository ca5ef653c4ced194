"""Before training: what is about to be trained is shown, and what must not be trained is refused."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from conftest import CHATML, LLAMA, THINK, adding_bos, make_tokenizer
from cotdistill import pipeline
from cotdistill.commands.train import train
from cotdistill.errors import SetupError, TrainingError, UsageError
from cotdistill.example import Example, Examples, build_examples
from cotdistill.learning import lint as linting
from cotdistill.learning.lint import check_packages, lint
from cotdistill.question import Question
from cotdistill.settings.train import TrainSettings
from cotdistill.template import ChatTemplate
from test_pipeline import recipe

TOKENIZERS = {
    "chatml": make_tokenizer(CHATML),
    "llama": make_tokenizer(LLAMA, eos="<|endoftext|>"),
    "llama, tokenizer adds BOS": adding_bos(make_tokenizer(LLAMA, eos="<|endoftext|>")),
    "think": make_tokenizer(THINK, eos="<|endoftext|>"),
    "plain": make_tokenizer(None, eos="<|endoftext|>"),
}
REASONED = "<think>\nI add 2 and 2.\n</think>\n\n2 + 2 = 4\nFinal Answer: 4"
PAIRS = [(f"q{i}#0", Question(f"q{i}", f"What is {i} + 2?"), REASONED) for i in range(4)]


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS)
def template(request) -> ChatTemplate:
    return ChatTemplate(request.param)


def checked(template, *, change=lambda example: example, limit=512, pairs=PAIRS, **settings):
    """The lint of the pairs, the first of whose examples is changed."""
    kept = build_examples(template, pairs, system="Add.", max_length=999).kept
    examples = Examples([change(kept[0]), *kept[1:]], [])
    return lint(template, pairs, examples, TrainSettings(**settings), system="Add.", max_new_tokens=limit)


def with_ids(example: Example, ids: list[int], prompt_length: int | None = None) -> Example:
    length = example.prompt_length if prompt_length is None else prompt_length
    return msgspec.structs.replace(example, input_ids=ids, prompt_length=length)


def test_good_examples_have_no_errors_and_give_no_warnings(template):
    found = checked(template)
    assert (found.errors, found.warnings) == ([], [])
    found.stop()


def test_the_sample_marks_what_is_trained_think_block_and_end_of_turn_included(template):
    found = checked(template)
    end = template.tokenizer.convert_ids_to_tokens(template.end_of_turn)
    marked = [line[2:] for line in found.sample.split("\n") if line.startswith("| ")]
    assert "\n".join(marked) == REASONED + end
    rest = [line for line in found.sample.split("\n") if not line.startswith("| ")]
    assert rest[0] == "One example of 4, q0#0. Lines with a bar are trained:"
    assert any("What is 0 + 2?" in line for line in rest[1:])
    assert all(line.startswith("  ") for line in rest[1:])


def test_traces_without_reasoning_are_doubted_unless_answers_alone_are_taught(template):
    alone = [("q#0", Question("q", "2 + 3?"), "**Final Answer:** 5"), ("r#0", Question("r", "2 + 4?"), REASONED)]
    assert checked(template, pairs=alone).warnings == [
        "the trace is its answer alone; worked examples (--few_shot) bring a teacher to show its steps "
        "(1 of 2 examples, first q#0)"
    ]
    assert checked(template, pairs=alone, target="answer").warnings == []


def test_control_tokens_of_the_template_are_shown_and_control_characters_escaped():
    pairs = [("q#0", Question("q", "a\x1b[2Jb"), "c\u202ed")]
    found = checked(ChatTemplate(TOKENIZERS["llama"]), pairs=pairs)
    assert "<s><|start_header_id|>system<|end_header_id|>" in found.sample
    assert "a\\x1b[2Jb<|eot_id|>" in found.sample
    assert "| c\\u202ed<|eot_id|>" in found.sample


BROKEN = {
    "the end of turn is not in the loss": lambda e, t: with_ids(e, e.input_ids[:-1]),
    "more than one end of turn": lambda e, t: with_ids(e, [*e.input_ids, t.end_of_turn]),
    "the trained part is not the trace": lambda e, t: with_ids(
        e, e.input_ids[: e.prompt_length] + t.answer_ids(REASONED.partition("</think>")[2])
    ),
    "the prompt is not the one": lambda e, t: with_ids(e, e.input_ids[1:], e.prompt_length - 1),
    "a second BOS": lambda e, t: with_ids(
        e, [*e.input_ids[: e.prompt_length], t.tokenizer.bos_token_id, *e.input_ids[e.prompt_length :]]
    ),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_an_example_that_must_not_be_trained_stops_the_training_and_is_named(template, problem):
    found = checked(template, change=lambda example: BROKEN[problem](example, template))
    assert any(problem in error for error in found.errors)
    assert all("(1 of 4 examples, first q0#0)" in error for error in found.errors)
    with pytest.raises(TrainingError, match=problem):
        found.stop()


def test_two_bos_at_the_beginning_are_one_too_many():
    bos = TOKENIZERS["llama"].bos_token_id
    found = checked(ChatTemplate(TOKENIZERS["llama"]), change=lambda e: with_ids(e, [bos, *e.input_ids], e.prompt_length + 1))
    assert any("a second BOS" in error for error in found.errors)


def test_traces_that_an_evaluation_would_cut_off_are_a_warning_and_no_error(template):
    longest = len(template.answer_ids(REASONED))
    assert not checked(template, limit=longest).warnings
    (warning,) = checked(template, limit=longest - 1).warnings
    assert f"has {longest} tokens or more, and the evaluation stops after {longest - 1}" in warning


def test_one_long_trace_in_a_hundred_is_none_too_many():
    template = ChatTemplate(TOKENIZERS["chatml"])
    pairs = [(f"q{i}#0", Question(f"q{i}", "?"), "4" * (9 if i else 99)) for i in range(100)]
    assert not checked(template, pairs=pairs, limit=10).warnings
    assert checked(template, pairs=pairs[:99], limit=10).warnings


def test_the_counts_are_those_of_the_training(template):
    examples = build_examples(template, PAIRS, system="Add.", max_length=999).kept
    found = checked(template, batch_size=1, gradient_accumulation_steps=2, num_epochs=3)
    tokens = sum(len(example.input_ids) for example in examples)
    answers = 4 * len(template.answer_ids(REASONED))
    assert found.counts == f"4 examples; {answers} answer tokens; 6 steps of about {round(tokens / 2)} tokens"
    held = checked(template, batch_size=1, gradient_accumulation_steps=1, num_epochs=1, validation=0.25)
    assert held.counts.startswith("3 examples, 1 more for validation; ")
    assert "; 3 steps of" in held.counts


# The command


@pytest.fixture
def dataset(tmp_path) -> Path:
    rows = [{"question": f"What is {i} + 7?", "reasoning": f"So {i + 7}.\nFinal Answer: {i + 7}"} for i in range(4)]
    (tmp_path / "cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "cot.jsonl"


def test_a_dry_run_shows_an_example_and_the_counts_and_writes_nothing(tiny, dataset, capsys):
    before = sorted(dataset.parent.rglob("*"))
    train(str(tiny), dataset, dataset.parent / "out", dry_run=True)
    shown = capsys.readouterr().out
    assert "4 traces teach" in shown
    assert "<|im_start|>assistant\n| So " in shown
    assert "4 examples; " in shown
    assert sorted(dataset.parent.rglob("*")) == before


def test_a_training_shows_the_same_before_its_first_step_unless_quiet(tiny, dataset, capsys):
    train(str(tiny), dataset, dataset.parent / "out", dry_run=True)
    rehearsed = capsys.readouterr().out
    train(str(tiny), dataset, dataset.parent / "out")
    assert capsys.readouterr().out.startswith(rehearsed)
    train(str(tiny), dataset, dataset.parent / "quiet", quiet=True)
    assert "Lines with a bar" not in capsys.readouterr().out


def test_a_dry_run_counts_both_tasks_of_a_training_that_has_two(tiny, dataset, capsys):
    train(str(tiny), dataset, dataset.parent / "out", objective="step_by_step", dry_run=True)
    rehearsed = capsys.readouterr().out
    assert "8 examples; " in rehearsed
    train(str(tiny), dataset, dataset.parent / "out", objective="step_by_step")
    assert capsys.readouterr().out.startswith(rehearsed)


@pytest.mark.parametrize("rehearsal", [True, False])
@pytest.mark.parametrize(
    ("flags", "error", "says"),
    [
        ({"target_modules": "q_prj"}, SetupError, "q_prj: the model has no such linear layer; it has .*q_proj"),
        ({"objective": "on_policy"}, SetupError, "needs the teacher's probabilities"),
        ({"teacher_model": "smollm2-135m-instruct"}, UsageError, "sft asks no teacher"),
        ({"alpha": 0.3}, UsageError, "sft has no --alpha"),
    ],
)
def test_what_a_training_refuses_its_dry_run_does_too(tiny, dataset, rehearsal, flags, error, says):
    with pytest.raises(error, match=says):
        train(str(tiny), dataset, dataset.parent / "out", dry_run=rehearsal, **flags)
    assert not (dataset.parent / "out").exists()


@pytest.mark.parametrize("rehearsal", [True, False])
def test_a_template_that_loses_the_end_of_turn_stops_before_any_training(tiny, dataset, monkeypatch, rehearsal):
    monkeypatch.setattr(ChatTemplate, "answer_ids", ChatTemplate.content_ids)
    with pytest.raises(TrainingError, match=r"the end of turn is not in the loss.*4 of 4 examples"):
        train(str(tiny), dataset, dataset.parent / "out", dry_run=rehearsal)
    assert not (dataset.parent / "out").exists()


def test_a_loss_plot_lies_beside_the_adapter(tiny, dataset):
    from xml.etree import ElementTree

    train(str(tiny), dataset, dataset.parent / "out", quiet=True)
    drawn = ElementTree.fromstring((dataset.parent / "out/loss.svg").read_text())
    (curve,) = drawn.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(curve.attrib["points"].split()) == 3  # of 3 epochs with a step each


@pytest.mark.parametrize(("flags", "package"), [
    ({"optim": "adamw_8bit"}, "bitsandbytes"), ({"report_to": "tensorboard"}, "tensorboard"),
    ({"report_to": "wandb"}, "wandb"), ({"report_to": "trackio"}, "trackio"),
])  # fmt: skip
def test_a_missing_package_is_named_before_any_work(tiny, dataset, monkeypatch, flags, package):
    monkeypatch.setattr(linting, "_there", lambda name: False)
    with pytest.raises(SetupError, match=f"pip install {package}"):
        train(str(tiny), dataset, dataset.parent / "out", **flags)
    assert not (dataset.parent / "out").exists()
    assert not (dataset.parent / "out.manifest.json").exists()


def test_a_run_names_a_missing_tracker_before_it_asks_the_teacher(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(linting, "_there", lambda name: False)
    with pytest.raises(SetupError, match="pip install wandb"):
        pipeline.run(recipe(tiny, train={"report_to": "wandb"}, plan={"skip": True}), runs=tmp_path, quiet=True)
    assert not (tmp_path / "tiny/2_traces.jsonl").exists()


def test_who_else_is_shown_the_loss_is_no_other_training():
    assert TrainSettings(report_to="trackio").claimed == TrainSettings().claimed


def test_packages_that_are_not_needed_need_not_be_there(monkeypatch):
    monkeypatch.setattr(linting, "_there", lambda name: False)
    check_packages(TrainSettings())


WRITER = """
import pathlib
class SummaryWriter:
    def __init__(self, log_dir):
        self.log = pathlib.Path(log_dir, "log")
        self.log.parent.mkdir()
    def add_scalar(self, name, value, step):
        with self.log.open("a") as file:
            file.write(f"{name} {step}\\n")
    add_text = flush = close = lambda *_, **__: None
"""


def test_tensorboard_gets_the_losses_of_every_step_beside_the_adapter(tiny, dataset, monkeypatch):
    (dataset.parent / "tensorboardX.py").write_text(WRITER)
    monkeypatch.syspath_prepend(dataset.parent)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    output = dataset.parent / "out"
    train(str(tiny), dataset, output, report_to="tensorboard", validation=0.3, quiet=True)
    told = (output / "logs/log").read_text().split("\n")
    for step in (1, 2, 3):
        assert {f"train/loss {step}", f"eval/loss {step}"} <= {*told}
    assert not (output / "checkpoints").exists()


def test_patience_without_questions_to_try_the_adapter_on_is_a_usage_error(tiny, dataset):
    with pytest.raises(UsageError, match="patience needs validation"):
        train(str(tiny), dataset, dataset.parent / "out", patience=1)
