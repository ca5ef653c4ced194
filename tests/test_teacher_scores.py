"""Teacher scores: they are the teacher's own, are made once, and are read by whoever has the same tokens."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import LLAMA, index_of_scores, make_examples, make_gpt2, make_model, make_tokenizer, make_windowed, on_cpu
from cotdistill.errors import DataError, SetupError, TrainingError
from cotdistill.example import Example, asked_with
from cotdistill.identity import model_hash
from cotdistill.learning import stored_scores as module
from cotdistill.learning import teacher_scores
from cotdistill.learning.loss import choose
from cotdistill.learning.scoring_teacher import ScoringTeacher, fitting
from cotdistill.learning.stored_scores import stored_scores
from cotdistill.learning.teacher_scores import LoadedTeacher, shared_ids
from test_terms import row_logits


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model with the same tokens."""
    return make_model(tmp_path_factory.mktemp("other"), seed=7)


def opened(directory, rows, k=5):
    model = on_cpu(directory)
    return LoadedTeacher(model, shared_ids(model.tokenizer, model.tokenizer), k, rows)


@pytest.mark.parametrize("make", [make_model, make_gpt2])
def test_scores_are_the_likeliest_tokens_of_the_models_own_softmax_row_by_row(tmp_path, make):
    model = on_cpu(make(tmp_path))
    rows = make_examples(model, 5)[::-1]
    for row, found in zip(rows, opened(tmp_path, rows).score(rows), strict=True):
        ids, values = wanted(model.module, row)[::-1]
        assert torch.equal(found.ids.long(), ids)
        assert torch.allclose(found.log_probs.float(), values, atol=5e-3)


SHOWN = [65 + i % 20 for i in range(60)]
"""What stands before every prompt: worked examples, say."""


def wanted(module, row, k=5):
    return row_logits(module, row)[0].log_softmax(dim=1).topk(k, dim=1)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("make", [make_model, make_gpt2])
def test_what_all_prompts_begin_with_is_read_once(tmp_path, make, pack, monkeypatch):
    model = on_cpu(make(tmp_path))
    plain = make_examples(model, 5)
    rows = [asked_with([*SHOWN, *row.input_ids[: row.prompt_length]], row) for row in plain]
    alike = Example("alike", "q", [*rows[0].input_ids, 66, 67], rows[0].prompt_length)
    monkeypatch.setattr(teacher_scores, "choose", lambda *a, **more: choose(*a, **{**more, "pack": pack}))
    teacher = LoadedTeacher(model, shared_ids(model.tokenizer, model.tokenizer), 5, rows)
    expected = {tuple(row.input_ids): wanted(model.module, row) for row in [*rows, *plain, alike]}
    read = []
    forward = model.module.forward
    monkeypatch.setattr(model.module, "forward", lambda **given: read.append(given["input_ids"]) or forward(**given))
    for asked in ([*rows[::-1], alike], rows[:1]):
        read.clear()
        for row, found in zip(asked, teacher.score(asked), strict=True):
            assert torch.equal(found.ids.long(), expected[tuple(row.input_ids)].indices)
            assert torch.allclose(found.log_probs.float(), expected[tuple(row.input_ids)].values, atol=5e-3)
        assert max(ids.shape[1] for ids in read) <= sum(len(row.input_ids) - len(SHOWN) for row in asked)
    for row, found in zip(plain, teacher.score(plain), strict=True):  # which begin otherwise
        assert torch.equal(found.ids.long(), expected[tuple(row.input_ids)].indices)


def test_a_model_that_keeps_a_window_only_reads_every_row_whole(tmp_path):
    model = on_cpu(make_windowed(tmp_path))
    rows = [asked_with([*SHOWN, *row.input_ids[: row.prompt_length]], row) for row in make_examples(model, 4)]
    teacher = opened(tmp_path, rows)
    assert teacher._prefix is None
    for row, found in zip(rows, teacher.score(rows), strict=True):
        assert torch.equal(found.ids.long(), wanted(model.module, row).indices)


def test_a_vocabulary_that_is_padded_further_is_aligned_on_the_shared_ids(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer) + 57, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=4, max_position_embeddings=512)  # fmt: skip
    module = LlamaForCausalLM(config)
    module.lm_head.weight.data[len(tokenizer) :] = module.lm_head.weight.data[:57] * 5  # rows that no text becomes
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = on_cpu(tmp_path)
    rows = make_examples(model, 3)
    (ids, log_probs), *_ = opened(tmp_path, rows, k=20).score(rows)
    own = row_logits(model.module, rows[0])[0].log_softmax(dim=1)
    assert int(own.argmax(dim=1).max()) >= len(tokenizer)
    assert int(ids.max()) < len(tokenizer)
    assert torch.allclose(log_probs.float(), own.gather(1, ids.long()), atol=1e-2)  # their mass is among the rest


def test_ids_with_another_meaning_are_not_shared(tmp_path):
    one, two = make_tokenizer(), make_tokenizer()
    two.add_tokens(["more"])
    assert shared_ids(one, two) == list(range(len(one)))


def test_a_row_with_a_token_that_the_teacher_does_not_know_is_refused(tiny):
    rows = make_examples(on_cpu(tiny), 2)
    model = on_cpu(tiny)
    teacher = LoadedTeacher(model, range(100), 5, rows)
    with pytest.raises(TrainingError, match="the teacher does not know"):
        teacher.score(rows)


def test_a_row_beyond_the_teachers_context_is_refused(tmp_path):
    make_model(tmp_path, context=64)
    rows = [Example("long", "long", [65] * 80, 10), Example("short", "short", [65] * 20, 10)]
    with pytest.raises(TrainingError, match="the teacher's context 64"):
        opened(tmp_path, rows[1:]).score(rows)


# On disk


class Counting:
    """Opens the teacher and counts what is scored."""

    def __init__(self, directory, rows):
        self.directory, self.rows, self.scored = directory, rows, []

    def __call__(self, k):
        teacher = opened(self.directory, self.rows, k)
        score = teacher.score
        teacher.score = lambda rows: self.scored.extend(row.trace_id for row in rows) or score(rows)
        return teacher


def test_scores_are_made_once_and_reused_for_the_same_tokens(other, tiny, tmp_path):
    rows = make_examples(on_cpu(tiny), 6)
    path = tmp_path / "2_scores.safetensors"
    first = Counting(other, rows)
    made = stored_scores(path, rows[:4], model_hash(other), 5, first)
    assert sorted(first.scored) == sorted(row.trace_id for row in rows[:4])
    second = Counting(other, rows)
    renamed = [msgspec.structs.replace(row, trace_id=f"x{i}") for i, row in enumerate(rows)]
    again = stored_scores(path, renamed, model_hash(other), 5, second)
    assert sorted(second.scored) == ["x4", "x5"]
    for row in rows[:4]:
        assert torch.equal(made(row).ids, again(row).ids)
    direct = opened(other, rows).score(rows)
    assert all(torch.equal(again(row).ids, one.ids) for row, one in zip(rows, direct, strict=True))
    fewer = stored_scores(path, rows, model_hash(other), 2, lambda k: pytest.fail("nothing is owed"))
    assert torch.equal(fewer(rows[5]).ids, direct[5].ids[:, :2])


def test_a_kill_costs_only_what_was_not_yet_written(other, tiny, tmp_path, monkeypatch):

    monkeypatch.setattr("cotdistill.learning.stored_scores.SAVE_EVERY", 2)
    monkeypatch.setattr(LoadedTeacher, "at_once", 1)
    rows = make_examples(on_cpu(tiny), 5)
    path, seen = tmp_path / "2_scores.safetensors", []

    def killed(more):
        seen.append(more)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored_scores(path, rows, model_hash(other), 5, Counting(other, rows), killed)
    rest = Counting(other, rows)
    stored_scores(path, rows, model_hash(other), 5, rest)
    assert len(rest.scored) == 3  # two had been written, the third and fourth were on their way


def test_a_kill_while_they_are_written_leaves_the_scores_that_were_there(other, tiny, tmp_path, monkeypatch):
    rows, path, wrote = make_examples(on_cpu(tiny), 4), tmp_path / "2_scores.safetensors", module.write_atomic
    monkeypatch.setattr(module, "SAVE_EVERY", 2)

    def killed(where, data):
        if path.exists():
            raise KeyboardInterrupt
        wrote(where, data)

    monkeypatch.setattr(module, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        stored_scores(path, rows, model_hash(other), 5, Counting(other, rows))
    monkeypatch.setattr(module, "write_atomic", wrote)
    rest = Counting(other, rows)
    stored_scores(path, rows, model_hash(other), 5, rest)
    assert len(rest.scored) == 2


def test_of_two_trainings_at_once_the_second_waits_and_takes_the_scores_of_the_first(other, tiny, tmp_path):
    rows, path, begun = make_examples(on_cpu(tiny), 3), tmp_path / "2_scores.safetensors", threading.Event()
    first, second = Counting(other, rows), Counting(other, rows)

    def slow(k):
        begun.set()
        time.sleep(1)
        return first(k)

    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(stored_scores, path, rows[:2], model_hash(other), 5, slow)
        begun.wait()
        stored_scores(path, rows, model_hash(other), 5, second)
        scoring.result()
    assert (len(first.scored), len(second.scored)) == (2, 1)
    assert index_of_scores(path)["rows"].keys() == {module.row_hash(row) for row in rows}


@pytest.mark.parametrize("damage", ["index", "cut", "other"])
def test_scores_that_do_not_belong_to_their_index_are_refused(other, tiny, tmp_path, damage):
    rows = make_examples(on_cpu(tiny), 2)
    path = tmp_path / "2_scores.safetensors"
    stored_scores(path, rows, model_hash(other), 5, Counting(other, rows))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        index = {"index": json.dumps(index_of_scores(path))}
        fewer = {name: tensor[1:].clone() for name, tensor in load_file(path).items()}
        save_file(fewer, path, index if damage == "other" else None)
    with pytest.raises(DataError, match="scored anew"):
        stored_scores(path, rows, model_hash(other), 5, Counting(other, rows))


def test_scores_of_another_teacher_or_of_fewer_tokens_are_refused(other, tiny, tmp_path):
    rows = make_examples(on_cpu(tiny), 2)
    path = tmp_path / "2_scores.safetensors"
    stored_scores(path, rows, model_hash(other), 5, Counting(other, rows))
    with pytest.raises(DataError, match="scores of another teacher"):
        stored_scores(path, rows, model_hash(tiny), 5, Counting(tiny, rows))
    with pytest.raises(DataError, match="holds 5 tokens at each place, not 9"):
        stored_scores(path, rows, model_hash(other), 9, Counting(other, rows))


# Which pairs


def test_a_pair_with_different_tokenizers_is_refused_with_the_objectives_that_are_possible(tiny, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<unk>").save_pretrained(tmp_path)
    config = LlamaConfig(vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    files = ScoringTeacher(str(tmp_path), tmp_path / "s.safetensors")
    with pytest.raises(SetupError, match=r"different tokenizers.*use sft, step_by_step, reject_on_student"):
        fitting(files, str(tiny), "on_policy", shown=False)


def test_a_teacher_that_is_missing_or_the_student_itself_is_refused(tiny, other, tmp_path):
    with pytest.raises(SetupError, match="--teacher_model"):
        fitting(None, str(tiny), "offline_kd", shown=False)
    with pytest.raises(SetupError, match="the same model"):
        fitting(ScoringTeacher(str(tiny), tmp_path), str(tiny), "on_policy", shown=False)
    itself = ScoringTeacher(str(tiny), tmp_path)
    assert fitting(itself, str(tiny), "on_policy", shown=True) is itself
    files = ScoringTeacher(str(other), tmp_path)
    assert fitting(files, str(tiny), "on_policy", shown=False) is files


def test_another_chat_template_with_the_same_tokens_is_no_hindrance(tiny, tmp_path):
    make_model(tmp_path, template=LLAMA, seed=3)
    files = ScoringTeacher(str(tmp_path), tmp_path / "s.safetensors")
    assert fitting(files, str(tiny), "offline_kd", shown=False) is files
