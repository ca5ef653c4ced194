"""Models that think first do so only where it is asked for, and their thoughts are kept apart from their answers."""

import json

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from conftest import CHATML, make_model, make_tokenizer, on_cpu
from cotdistill.card import read_card
from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.generate import generate
from cotdistill.commands.train import train
from cotdistill.engines import Message
from cotdistill.errors import SetupError, UsageError
from cotdistill.example import build_examples
from cotdistill.learning.lint import lint
from cotdistill.model_files.merged import merge, save_merged
from cotdistill.question import Question
from cotdistill.settings.train import TrainSettings
from cotdistill.template import ChatTemplate
from cotdistill.thinking import apart, joined
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict, judge, taught_text, thought_text
from cotdistill.wording import bare

ASKED = (Message("system", "Be brief."), Message("user", "What is 2 + 2?"))
EMPTY = "<think>\n\n</think>\n\n"
TURNS = CHATML.partition("{% if add_generation_prompt %}")[0]
# As Qwen3 and SmolLM3 do it: unless it is told otherwise, the model opens a thought by itself.
SWITCHED = (
    TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}\n"
)
# As DeepSeek-V3.1 does it, under another name.
RENAMED = (
    "{% if not thinking is defined %}{% set thinking = true %}{% endif %}" + TURNS +
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)
# As DeepSeek-R1 does it: always.
FORCED = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


def thinker(source: str, *, thinking: bool = False) -> ChatTemplate:
    """A template on a tokenizer in which the tags are tokens, and not marked as control tokens (Qwen3, R1)."""
    tokenizer = make_tokenizer(source)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>", "<|U|>")])
    return ChatTemplate(tokenizer, thinking=thinking)


def opening(template: ChatTemplate, **how: bool) -> str:
    return template.tokenizer.decode(template.prompt_ids(ASKED, **how)).partition("assistant\n")[2]


@pytest.mark.parametrize(
    ("source", "off", "on"),
    [(CHATML, "", ""), (SWITCHED, EMPTY, ""), (RENAMED, "</think>", "<think>"), (FORCED, EMPTY, "<think>\n")],
    ids=["none", "switched", "renamed", "forced"],
)
def test_a_model_thinks_only_where_it_is_asked_to(source, off, on):
    template = thinker(source)
    assert opening(template) == opening(template, thinking=False) == off
    assert opening(template, thinking=True) == on
    assert opening(thinker(source, thinking=True)) == on


@pytest.mark.parametrize("source", [CHATML, SWITCHED, RENAMED, FORCED])
@pytest.mark.parametrize("thinking", [False, True])
def test_whoever_renders_an_exported_template_asks_as_in_training(source, thinking):
    trained = thinker(source, thinking=thinking)
    exported = thinker(trained.exported, thinking=thinking)
    for told in ({}, {"enable_thinking": not thinking}):  # vLLM's, Ollama's or transformers' own words
        text = trained.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in ASKED], chat_template=trained.exported,
            add_generation_prompt=True, tokenize=False, **told,
        )  # fmt: skip
        assert text == trained.tokenizer.decode(trained.prompt_ids(ASKED))
    assert exported.prompt_ids(ASKED) == trained.prompt_ids(ASKED)
    assert exported.hash == trained.hash
    assert exported.exported == trained.exported
    assert bare(trained.exported) == source.removesuffix("\n")


@pytest.mark.parametrize(
    ("text", "opened", "answer", "thought"),
    [
        ("2 + 2 = 4", False, "2 + 2 = 4", None),
        ("<think>\ntwo twos\n</think>\n\n4", False, "4", "two twos"),
        ("two twos\n</think>\n\n4", True, "4", "two twos"),
        ("<think>\nFinal Answer: 5? Wait", False, "", "Final Answer: 5? Wait"),
        ("the answer is 5. But wait", True, "", "the answer is 5. But wait"),
        ("a < b </think> c", False, "a < b </think> c", None),
        ("<think>\n\n</think>\n\n4", False, "4", ""),
    ],
)
def test_a_thought_is_kept_apart_and_one_that_never_ends_has_no_answer(text, opened, answer, thought):
    assert apart(text, opened=opened) == (answer, thought)


def test_thought_and_answer_are_joined_as_they_were():
    assert apart(joined("4", "two twos")) == ("4", "two twos")


@pytest.mark.parametrize("source", [SWITCHED, FORCED])
def test_what_a_model_wrote_is_read_by_what_its_prompt_opened(source):
    template = thinker(source, thinking=True)
    prompt = template.prompt_ids(ASKED)
    written = template.answer_ids(joined("4", "two twos"))[:-1]
    assert template.read(prompt, written) == ("4", "two twos")
    assert template.read(thinker(source).prompt_ids(ASKED), template.content_ids("4")) == ("4", None)


@pytest.mark.parametrize("source", [CHATML, SWITCHED, FORCED])
def test_a_thinking_student_learns_its_thought_once_opened(source):
    template = thinker(source, thinking=True)
    example = template.prompt_ids(ASKED) + template.answer_ids(joined("4", "two twos"))
    text = template.tokenizer.decode(example)
    assert text.endswith("<|im_start|>assistant\n<think>\ntwo twos\n</think>\n\n4<|im_end|>")
    tags = template.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert [example.count(tag) for tag in tags] == [1, 1]


def test_tags_and_added_tokens_in_a_question_stay_text_and_in_an_answer_only_the_tags_are_tokens():
    template = thinker(SWITCHED)
    names = ["<think>", "</think>", "<|U|>"]
    added = set(template.tokenizer.convert_tokens_to_ids(names))
    asked = template.prompt_ids([Message("user", "Say <think>, </think> and <|U|>.")], thinking=True)
    assert not added & set(asked)
    assert "Say <think>, </think> and <|U|>." in template.tokenizer.decode(asked)
    answer = template.answer_ids("<think>\na <|U|>\n</think>\n\nb")
    assert [template.tokenizer.decode([i]) for i in answer if i in added] == ["<think>", "</think>"]
    assert template.tokenizer.decode(answer[:-1]) == "<think>\na <|U|>\n</think>\n\nb"


def test_a_template_with_channels_is_refused_with_the_way_that_works():
    with pytest.raises(SetupError, match="--base_url"):
        ChatTemplate(make_tokenizer(CHATML + "{# <|channel|>analysis<|message|> #}"))


def test_a_thought_teaches_only_where_that_is_the_target():
    question = Question("q", "What is 2 + 2?", gold="4")
    for trace in (
        Trace("t", "q", question.text, "2 + 2 = 4\nFinal Answer: 4", thinking="two twos"),
        Trace("t", "q", question.text, "<think>\ntwo twos\n</think>\n\n2 + 2 = 4\nFinal Answer: 4"),
    ):
        verdict = judge(trace, question)
        assert verdict.status == "correct"
        assert thought_text(trace, verdict) == "<think>\ntwo twos\n</think>\n\n2 + 2 = 4\nFinal Answer: 4"
    assert taught_text(Trace("t", "q", "", "4", thinking="two twos"), Verdict("t", "correct")) == "4"


def test_a_thought_that_shows_the_hint_does_not_teach():
    trace = Trace("t", "q", "What is 2 + 2?", "2 + 2 = 4\nFinal Answer: 4", hinted=True,
                  thinking="The hint says that the correct answer is 4.")  # fmt: skip
    assert judge(trace, Question("q", trace.question, gold="4"), hinted=True).status == "leaks"
    assert judge(Trace("t", "q", trace.question, trace.reasoning, hinted=True, thinking="Two twos."),
                 Question("q", trace.question, gold="4"), hinted=True).status == "correct"  # fmt: skip


@pytest.mark.parametrize(
    ("source", "thinking", "text", "doubt"),
    [
        (SWITCHED, False, joined("4", "two twos"), "the target thinking teaches thoughts"),
        (SWITCHED, True, joined("4", ""), "nothing was thought before the trace"),
        (SWITCHED, True, joined("4", "two twos"), ""),
        (FORCED, True, joined("4", "two twos"), ""),
        (FORCED, False, "4", ""),
        (CHATML, False, joined("4", "two twos"), ""),
    ],
)
def test_a_trace_that_does_not_fit_its_prompt_is_a_doubt(source, thinking, text, doubt):
    template = thinker(source, thinking=thinking)
    pairs = [("q#0", Question("q", "What is 2 + 2?"), text)]
    examples = build_examples(template, pairs, system="s", max_length=500)
    found = lint(template, pairs, examples, TrainSettings(), system="s", max_new_tokens=500)
    assert found.errors == []
    assert [doubt in warning for warning in found.warnings] == ([True] if doubt else [])


# The commands


@pytest.mark.parametrize("target", ["thinking", "reasoning"])
def test_a_student_is_asked_and_exported_in_the_mode_it_was_trained_in(tmp_path, target):
    base, output, test = make_model(tmp_path / "base", template=FORCED), tmp_path / "adapter", tmp_path / "test.jsonl"
    rows = [{"question": f"What is {i} + 1?", "thinking": "One more.", "reasoning": f"Final Answer: {i + 1}"}
            for i in range(4)]  # fmt: skip
    (tmp_path / "cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text('{"question": "What is 7 + 1?", "answer": "8"}\n')
    train(str(base), tmp_path / "cot.jsonl", output, num_epochs=1, target=target, max_new_tokens=None, quiet=True)
    thinks = target == "thinking"
    assert read_card(output).thinking == thinks
    evaluate(str(base), test, tmp_path / "p.jsonl", lora_model=output, max_new_tokens=4, compare_base=True, quiet=True)
    for stage in json.loads((tmp_path / "p.manifest.json").read_text())["stages"].values():
        assert stage["settings"]["sampling"].get("thinking", False) == thinks
    save_merged(merge(base, output), tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "u"}], add_generation_prompt=True, tokenize=False)
    assert asked.endswith("assistant\n<think>\n" if thinks else f"assistant\n{EMPTY}")
    assert on_cpu(tmp_path / "merged").template.prompt_ids(ASKED, thinking=thinks) == (
        on_cpu(base).template.prompt_ids(ASKED, thinking=thinks)
    )


def test_a_teacher_that_is_let_think_has_its_thoughts_beside_its_traces(tmp_path):
    base, asked = make_model(tmp_path / "base", template=FORCED), tmp_path / "q.jsonl"
    asked.write_text('{"question": "What is 7 + 1?"}\n')
    for thinking in (True, False):
        traces = tmp_path / f"{thinking}.jsonl"
        generate(str(base), asked, traces, max_new_tokens=4, thinking=thinking, quiet=True)
        row = json.loads(traces.read_text())
        assert ("thinking" in row) == thinking  # cut off in its thought, this one has no answer
        assert (row["reasoning"] == "") == thinking
    with pytest.raises(UsageError, match="extra_body"):
        generate("m", asked, tmp_path / "t.jsonl", thinking=True, base_url=["http://localhost/v1"], quiet=True)
