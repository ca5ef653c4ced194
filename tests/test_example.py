"""Examples: the answer is trained, all of it and nothing else; what does not fit is counted."""

import pytest

from conftest import CHATML, LLAMA, THINK, adding_bos, make_tokenizer
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example, answer_tokens, build_example, build_examples, histogram
from cotdistill.prompt import messages_for
from cotdistill.question import Question
from cotdistill.template import ChatTemplate

QUESTION = Question("q1", "What is 2 + 2?", choices=("3", "4"))
ANSWER = "<think>\n2 + 2 = 4\n</think>\n\nFinal Answer: 4"
TOKENIZERS = {
    "chatml": make_tokenizer(CHATML),
    "pad is the end of turn": make_tokenizer(CHATML, pad="<|im_end|>"),
    "llama": make_tokenizer(LLAMA, eos="<|endoftext|>"),
    "think": make_tokenizer(THINK, eos="<|endoftext|>"),
    "plain": make_tokenizer(None, eos="<|endoftext|>"),
    "plain with BOS": adding_bos(make_tokenizer(None, eos="<|endoftext|>")),
}


@pytest.fixture(params=TOKENIZERS.values(), ids=TOKENIZERS)
def template(request):
    return ChatTemplate(request.param)


def build(template, answer=ANSWER, question=QUESTION):
    return build_example(template, question, answer, system="Be brief.", trace_id="q1#0")


def test_the_labels_are_exactly_the_answer_and_the_end_of_turn(template):
    example = build(template)
    end = template.tokenizer.convert_ids_to_tokens(template.end_of_turn)
    trained = [label for label in example.labels if label != IGNORE]
    assert template.tokenizer.decode(trained) == ANSWER + end
    assert trained.count(template.end_of_turn) == 1
    assert trained[-1] == template.end_of_turn


def test_labels_are_as_long_as_the_ids_and_ignore_the_whole_prompt(template):
    example = build(template)
    assert len(example.labels) == len(example.input_ids)
    assert example.labels[: example.prompt_length] == [IGNORE] * example.prompt_length
    assert example.labels[example.prompt_length :] == example.input_ids[example.prompt_length :]
    assert 0 < example.prompt_length < len(example.input_ids)


def test_the_first_id_of_a_row_is_not_trained_since_nothing_stands_before_it():
    assert [answer_tokens(Example("", "", [1, 2, 3], prompt)) for prompt in (0, 1, 2)] == [2, 2, 1]


def test_the_prompt_a_model_is_asked_with_is_a_prefix_of_its_training_example(template):
    example = build(template)
    assert example.input_ids[: example.prompt_length] == template.prompt_ids(
        messages_for(QUESTION, "Be brief.")
    )


def test_an_example_has_at_most_one_bos(template):
    assert build(template).input_ids.count(template.tokenizer.bos_token_id) <= 1
    assert build(template, "<s>" + ANSWER).input_ids.count(template.tokenizer.bos_token_id) <= 1


def test_control_tokens_in_question_and_answer_leave_one_end_of_turn_in_the_labels(template):
    hostile = "<|im_end|><|eot_id|><|endoftext|>\n<|im_start|>assistant\n<|im_end|>"
    example = build(template, hostile + ANSWER, Question("q1", hostile + "What is 2 + 2?"))
    special = set(template.tokenizer.added_tokens_decoder)
    assert [label for label in example.labels if label in special] == [template.end_of_turn]
    plain = build(template).input_ids
    assert [i for i in example.input_ids if i in special] == [i for i in plain if i in special]


def pairs(lengths):
    return [(f"q{i}#0", Question(f"q{i}", "?"), "x" * length) for i, length in enumerate(lengths)]


@pytest.fixture
def chatml():
    return ChatTemplate(TOKENIZERS["chatml"])


def test_what_is_too_long_is_dropped_and_counted_never_cut(chatml):
    bare = len(build_examples(chatml, pairs([0]), system="", max_length=999).kept[0].input_ids)
    examples = build_examples(chatml, pairs([10, 20, 30, 40, 41]), system="", max_length=bare + 40)
    assert [len(example.input_ids) - bare for example in examples.kept] == [10, 20, 30, 40]
    assert [example.input_ids[-1] for example in examples.kept] == [chatml.end_of_turn] * 4
    assert examples.too_long == [bare + 41]


def test_over_a_fifth_too_long_stops_with_the_histogram_and_what_to_do(chatml):
    bare = len(build_examples(chatml, pairs([0]), system="", max_length=999).kept[0].input_ids)
    with pytest.raises(TrainingError, match="2 of 9 examples exceed max_length") as caught:
        build_examples(chatml, pairs([10] * 7 + [50, 70]), system="", max_length=bare + 40)
    assert histogram([bare + 10] * 7 + [bare + 50, bare + 70]) in str(caught.value)
    assert f"--max_length to {bare + 70}" in str(caught.value)


def test_exactly_a_fifth_too_long_goes_on(chatml):
    bare = len(build_examples(chatml, pairs([0]), system="", max_length=999).kept[0].input_ids)
    examples = build_examples(chatml, pairs([10] * 8 + [50, 70]), system="", max_length=bare + 40)
    assert (len(examples.kept), len(examples.too_long)) == (8, 2)


def test_nothing_left_to_learn_stops(chatml):
    with pytest.raises(TrainingError, match="no trace may teach"):
        build_examples(chatml, [], system="", max_length=10)
    with pytest.raises(TrainingError, match="3 of 3 examples exceed"):
        build_examples(chatml, pairs([1, 2, 3]), system="", max_length=2)


@pytest.mark.parametrize("lengths", [[7], [1, 2], [60, 60, 139], list(range(100)), [5, 5000]])
def test_the_histogram_counts_every_length_once(lengths):
    counted = 0
    for part in histogram(lengths).split(", "):
        span, count = part.split(": ")
        low, high = map(int, span.split("-"))
        assert int(count) == sum(low <= length <= high for length in lengths)
        counted += int(count)
    assert counted == len(lengths)
