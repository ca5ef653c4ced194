"""Loss: whichever way it is computed, it and its gradient are those of the model's own logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import CausalLMOutput

from conftest import make_examples, make_gpt2, make_model, make_windowed, on_cpu
from cotdistill.adapter import attach
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example, asked_with
from cotdistill.learning import chunked, teacher_scores
from cotdistill.learning.chunked import nll
from cotdistill.learning.loss import AnswerLoss, choose
from cotdistill.learning.teacher_scores import LoadedTeacher
from cotdistill.settings.lora import Lora

WAYS = [{"packed": True, "chunked": True}, {"packed": False, "chunked": True}, {"packed": False, "chunked": False}]


def adapted(directory):
    """peft's model with a LoRA that already does something."""
    model = on_cpu(directory)
    torch.manual_seed(1)
    module, _ = attach(model, Lora(dropout=0.0))
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, module


def gradients(module):
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def assert_same_gradients(module, wanted):
    """The same parameters have a gradient, one at least, and it is ``wanted``'s."""
    found = gradients(module)
    assert wanted
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-4 * wanted[name].abs().max().item()), name


def naive(module, rows):
    """One row at a time, unpadded, over full logits."""
    total = torch.zeros(())
    for row in rows:
        logits = module(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        total = total + cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=IGNORE, reduction="sum")
    return total


def rows_of(model):
    """Rows of many lengths, two of them other answers to a question that is there already."""
    rows = make_examples(model, 5)
    prompts = [row.input_ids[: row.prompt_length] for row in rows[:2]]
    return [*rows, *(Example("x", "x", [*prompt, 65, 66, rows[0].input_ids[-1]], len(prompt)) for prompt in prompts)]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("chunk", [1, 5_000, 1 << 23])
def test_loss_and_gradient_are_those_of_full_logits_row_by_row(tiny, monkeypatch, way, chunk):
    monkeypatch.setattr(chunked, "CHUNK", chunk)
    model, module = adapted(tiny)
    rows = rows_of(model)
    expected = naive(module, rows)
    expected.backward()
    wanted = gradients(module)
    loss = AnswerLoss(module, model.template.pad_id, **way)
    attention = module.get_base_model().config._attn_implementation
    with loss:
        found = sum(loss(module, group) for group in loss.groups(rows))
        found.backward()
    assert module.get_base_model().config._attn_implementation == attention
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(module, wanted)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_attention_reaches_back_as_far_as_the_models_own(tmp_path, way):
    model, module = adapted(make_windowed(tmp_path))
    rows = [*rows_of(model), Example("x", "x", list(range(60, 90)), 10), Example("y", "x", list(range(60, 80)), 10)]
    expected = naive(module, rows)
    expected.backward()
    wanted = gradients(module)
    loss = AnswerLoss(module, model.template.pad_id, **way)
    with loss:
        found = loss(module, rows)
        found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert_same_gradients(module, wanted)


def test_a_row_without_an_answer_adds_nothing(tiny):
    model, module = adapted(tiny)
    loss = AnswerLoss(module, model.template.pad_id, packed=False, chunked=True)
    nothing = loss(module, [Example("", "", [1], 1)])
    nothing.backward()
    assert nothing.item() == 0.0
    found = gradients(module)
    assert found
    assert not any(gradient.any() for gradient in found.values())


def test_the_chunked_loss_is_cross_entropy_with_a_bias_too():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 4, requires_grad=True), torch.randn(11, 4), torch.randn(11)
    targets = torch.randint(11, (7,))
    expected = cross_entropy(hidden @ weight.T + bias, targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected, hidden)
    (found,) = torch.autograd.grad(nll(hidden, weight, bias, targets).sum() * 2, hidden)
    assert nll(hidden, weight, bias, targets).sum().item() == pytest.approx(expected.item())
    assert torch.allclose(found, 2 * wanted, atol=1e-5)


def way_of(loss):
    return {"packed": loss._packed, "chunked": loss._chunked}


@pytest.mark.parametrize("make", [make_model, make_gpt2])
def test_the_most_sparing_way_is_taken_where_it_agrees(tmp_path, make):
    model, module = adapted(make(tmp_path))
    assert way_of(choose(module, rows_of(model), model.template.pad_id, pack=True)) == WAYS[0]


@pytest.mark.real_model
def test_a_real_model_in_bf16_is_taken_as_it_is_on_a_gpu(monkeypatch):
    """Its logits are an eighth apart there, so no two ways to compute a loss agree to more than a few percent."""
    from cotdistill.download import local_model
    from cotdistill.hardware import Placement
    from cotdistill.model import load_model

    directory = local_model("smollm2-135m-instruct", want="hf")
    model = load_model(directory, Placement("cpu", "bfloat16", False, None))
    model.module.requires_grad_(False)
    rows = make_examples(model, 2)
    prompt = model.tokenizer("Add, one small step at a time, and write every step on a line of its own.").input_ids
    shown = [asked_with([*prompt, *row.input_ids[: row.prompt_length]], row) for row in rows]
    assert way_of(choose(model.module, rows, model.template.pad_id, pack=False)) == WAYS[1]
    monkeypatch.setattr(teacher_scores, "choose", lambda *given, **more: choose(*given, **{**more, "pack": False}))
    teacher = LoadedTeacher(model, range(len(model.tokenizer)), 5, shown)
    assert teacher._prefix


@pytest.mark.parametrize("chunked", [True, False])
def test_the_loss_is_in_fp32_though_fsdp_rounds_what_leaves_a_model(tiny, monkeypatch, chunked):
    model, module = adapted(tiny)
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda **given: CausalLMOutput(logits=forward(**given).logits.bfloat16()))
    with AnswerLoss(module, model.template.pad_id, packed=True, chunked=chunked) as loss:
        assert loss.tokens(module, make_examples(model, 2)).dtype == torch.float32
    assert "forward" not in vars(model.module.get_output_embeddings())  # which would hold itself in memory


def test_a_model_that_lies_partly_in_main_memory_is_refused(tiny):
    model, module = adapted(tiny)
    module.get_base_model().model.layers[1].mlp.to("meta")
    with pytest.raises(TrainingError, match="too large for the GPU"):
        choose(module, make_examples(model, 2), model.template.pad_id, pack=False)


def test_rows_are_padded_where_packing_is_not_wanted(tiny):
    model, module = adapted(tiny)
    assert way_of(choose(module, rows_of(model), model.template.pad_id, pack=False)) == WAYS[1]


def cap(module, most, monkeypatch):
    """Let a model hold its logits below ``most``, as Gemma's do."""
    forward = module.forward

    def capped(*given, **more):
        output = forward(*given, **more)
        output.logits = most * torch.tanh(output.logits / most)
        return output

    monkeypatch.setattr(module, "forward", capped)


def test_a_model_in_16_bits_that_caps_its_logits_gets_the_loss_of_those_too(tiny, monkeypatch):
    model = on_cpu(tiny)
    model.module.lm_head.weight.data.mul_(40)
    module = model.module.to(torch.bfloat16).requires_grad_(False)
    assert way_of(choose(module, rows_of(model), model.template.pad_id, pack=False)) == WAYS[1]
    cap(module, 4, monkeypatch)
    assert way_of(choose(module, rows_of(model), model.template.pad_id, pack=False)) == WAYS[2]


def test_a_model_that_caps_its_logits_gets_the_loss_of_those(tiny, monkeypatch):
    """The chunked loss does not know of the cap."""
    model, module = adapted(tiny)
    cap(module.get_base_model(), 2, monkeypatch)
    rows = rows_of(model)
    loss = choose(module, rows, model.template.pad_id, pack=True)
    assert way_of(loss) == WAYS[2]
    assert loss(module, rows).item() == pytest.approx(naive(module, rows).item(), rel=1e-5)
