"""Training: the loss is the one it claims to be, learning happens, and an interruption costs nothing."""

import shutil

import pytest
import torch
import transformers

from conftest import make_examples, make_gpt2, make_tokenizer, on_cpu, teach, weights
from cotdistill.adapter import load_adapter
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.transformers_engine import TransformersEngine
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example, build_examples
from cotdistill.hardware import Placement, place
from cotdistill.learning.trainer import AnswerTrainer
from cotdistill.model import load_model
from cotdistill.question import Question
from cotdistill.settings.lora import Lora
from cotdistill.settings.train import TrainSettings
from cotdistill.training import train

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def reference_loss(module, examples):
    """Mean over all answer tokens of torch's cross entropy on full logits, one row at a time, unpadded."""
    total, count = 0.0, 0
    for example in examples:
        labels = torch.tensor([example.labels])
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([example.input_ids])).logits
        total += torch.nn.functional.cross_entropy(
            logits[0, :-1], labels[0, 1:], ignore_index=IGNORE, reduction="sum"
        ).item()
        count += int((labels[0, 1:] != IGNORE).sum())
    return total / count


def farthest(one, other):
    """The largest difference between two adapters' weights."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


# The loss


@pytest.mark.parametrize(("batch", "accumulation"), [(5, 1), (1, 5), (2, 3)])
def test_the_loss_is_the_mean_over_the_answer_tokens_of_the_whole_step(tiny, tmp_path, batch, accumulation):
    model = on_cpu(tiny)
    expected = reference_loss(model.module, make_examples(model, 5))
    result = teach(tiny, tmp_path, rows=5, batch_size=batch, gradient_accumulation_steps=accumulation)
    assert result.losses == [(1, pytest.approx(expected, abs=1e-5))]


def test_a_class_that_wants_its_loss_divided_by_the_micro_batches_changes_nothing(tiny, tmp_path, monkeypatch):
    step = {"rows": 4, "batch_size": 1, "gradient_accumulation_steps": 4}
    usual = teach(tiny, tmp_path / "usual", **step)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    assert teach(tiny, tmp_path / "other", **step).losses == usual.losses


def test_the_gpus_that_one_process_sees_do_not_enlarge_its_steps(tiny, tmp_path, monkeypatch):
    step = {"rows": 4, "batch_size": 1, "gradient_accumulation_steps": 2}
    usual = teach(tiny, tmp_path / "usual", **step)
    seen = property(lambda arguments: arguments._n_gpu or 2)
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", seen)
    assert teach(tiny, tmp_path / "seen", **step).losses == usual.losses


def test_the_loss_counts_what_a_model_does_to_its_logits(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.05,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    model = on_cpu(tmp_path / "gemma")
    expected = reference_loss(model.module, make_examples(model, 4))
    assert teach(tmp_path / "gemma", tmp_path / "out").losses[0][1] == pytest.approx(expected, abs=1e-5)


def test_the_forward_of_a_16_bit_model_runs_under_autocast(tiny, tmp_path):
    placement = Placement("cpu", "bfloat16", False, None)
    model = load_model(tiny, placement)
    seen = []
    model.module.model.layers[0].register_forward_pre_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    train(
        model,
        make_examples(model, 2),
        TrainSettings(num_epochs=1),
        tmp_path,
        system_prompt="",
        placement=placement,
    )
    assert seen[-1] is True  # those before it hold the loss against the model's own, in 16 bit throughout


def test_micro_batches_of_1_and_of_8_train_the_same_adapter_in_a_partial_last_window_too(tiny, tmp_path):
    settings = {"rows": 13, "num_epochs": 2, "learning_rate": 1e-3}
    one = teach(tiny, tmp_path / "1x8", batch_size=1, gradient_accumulation_steps=8, **settings)
    other = teach(tiny, tmp_path / "8x1", batch_size=8, gradient_accumulation_steps=1, **settings)
    assert one.steps == other.steps == 4
    assert [loss for _, loss in one.losses] == pytest.approx([loss for _, loss in other.losses], abs=1e-5)
    assert farthest(weights(tmp_path / "1x8"), weights(tmp_path / "8x1")) < 1e-5


def test_gradient_checkpointing_computes_each_layer_once_more_for_the_same_adapter(tiny, tmp_path):
    computed = []
    for checkpointing in (False, True):
        model, calls = on_cpu(tiny), []
        model.module.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        teach(
            tiny, tmp_path / str(checkpointing), model=model, gradient_checkpointing=checkpointing, num_epochs=2,
            batch_size=1,
        )  # fmt: skip
        computed.append(len(calls))
    assert computed[1] == computed[0] + 2 * 4
    assert farthest(weights(tmp_path / "False"), weights(tmp_path / "True")) < 1e-6


def test_another_seed_trains_another_adapter_and_the_same_one_the_same(tiny, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        teach(tiny, tmp_path / name, seed=seed, lora={"dropout": 0.2})
    assert farthest(weights(tmp_path / "one"), weights(tmp_path / "again")) == 0
    assert farthest(weights(tmp_path / "one"), weights(tmp_path / "two")) > 1e-3


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0])
def test_a_loss_that_cannot_be_right_aborts_and_saves_nothing(tiny, tmp_path, monkeypatch, factor):
    compute = AnswerTrainer.compute_loss
    monkeypatch.setattr(
        AnswerTrainer, "compute_loss", lambda *args, **kwargs: compute(*args, **kwargs) * factor
    )
    with pytest.raises(TrainingError, match=f"the loss at step 1 is {factor}"):
        teach(tiny, tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_examples_without_an_answer_token_are_refused(tiny, tmp_path):
    with pytest.raises(TrainingError, match="no example has an answer token"):
        teach(tiny, tmp_path, examples=[Example("a", "a", [1, 2, 3], 3)])


# Learning


@pytest.mark.parametrize("make", ["llama", "gpt2"])
def test_one_step_moves_every_lora_b_and_leaves_the_base_bit_identical(tiny, tmp_path, make):
    directory = tiny if make == "llama" else make_gpt2(tmp_path / "gpt2")
    model = on_cpu(directory)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    result = teach(directory, tmp_path / "out", model=model)
    assert result.steps == 1
    moved = {name: bool(value.any()) for name, value in weights(tmp_path / "out").items() if "lora_B" in name}
    assert moved
    assert all(moved.values())
    after = {name.replace(".base_layer", ""): value for name, value in model.module.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_an_adapter_that_did_not_move_is_refused(tiny, tmp_path):
    with pytest.raises(TrainingError, match="LoRA layers were not trained"):
        teach(tiny, tmp_path, learning_rate=0.0)
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_an_overfitted_student_answers_and_stops_by_itself(tiny, tmp_path):
    model = on_cpu(tiny)
    model.module.get_input_embeddings().weight.data.mul_(15)  # so that a random head can be sure of a token
    questions = {letter * 5: f"So {i}" for i, letter in enumerate("abcdefgh")}
    pairs = [(text, Question(text, text), answer) for text, answer in questions.items()]
    examples = build_examples(model.template, pairs, system="", max_length=99).kept
    teach(
        tiny, tmp_path, model=model, examples=examples * 25, num_epochs=12, batch_size=8, learning_rate=5e-3,
        lora={"r": 32, "alpha": 64, "targets": LINEAR},
    )  # fmt: skip
    asked = [Request(text, (Message("user", text),)) for text in questions]
    completions = TransformersEngine(model).complete(asked, Sampling(max_new_tokens=20))
    assert {c.key: c.text for c in completions if c.finish == "stop"} == questions


def test_the_result_counts_steps_rows_and_tokens(tiny, tmp_path):
    examples = make_examples(on_cpu(tiny), 5)
    shown = []
    result = teach(tiny, tmp_path, rows=5, batch_size=2, num_epochs=2, show=shown.append)
    assert (result.steps, result.examples) == (6, 5)
    assert result.tokens == 2 * sum(len(example.input_ids) for example in examples)
    assert result.answer_tokens == 2 * sum(len(e.input_ids) - e.prompt_length for e in examples)
    assert [(step.step, step.steps, step.loss) for step in shown] == [
        (i, 6, loss) for i, loss in result.losses
    ]


# Interruption

LONG = {"rows": 6, "batch_size": 2, "num_epochs": 3, "lora": {"dropout": 0.2}, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run of 9 steps: its directory and result."""
    output = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    return output, teach(tiny, output, **LONG)


def interrupt_at(step):
    def show(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return show


@pytest.mark.parametrize("stops", [(2,), (5,), (4, 8)], ids=str)
def test_an_interrupted_training_goes_on_to_the_same_adapter(tiny, tmp_path, whole, stops):
    output, expected = whole
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            teach(tiny, tmp_path, show=interrupt_at(stop), **LONG)
    shown = []
    result = teach(tiny, tmp_path, show=lambda progress: shown.append(progress.step), **LONG)
    assert shown[0] == stops[-1]  # the step it was stopped in is done again, no other
    assert result.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in expected.losses]
    assert farthest(weights(output), weights(tmp_path)) < 1e-5


def test_a_finished_training_run_again_changes_nothing(tiny, tmp_path, whole):
    output, expected = whole
    shutil.copytree(output, tmp_path / "again")
    result = teach(tiny, tmp_path / "again", **LONG)
    assert result.losses == expected.losses
    assert farthest(weights(output), weights(tmp_path / "again")) == 0


# 4-bit


def test_a_4_bit_base_trains_on_the_cpu_and_its_adapter_loads_again(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    placement = place(load_in_4bit=True)
    assert placement.sentence() == f"{placement.device}, 4-bit NF4, computing in {placement.dtype}"
    model = load_model(tmp_path / "base", placement)
    quantised = model.module.model.layers[0].mlp.up_proj.weight
    assert quantised.dtype == torch.uint8
    before = quantised.clone()
    examples = make_examples(model, 4)
    settings = TrainSettings(
        num_epochs=1, batch_size=2, gradient_accumulation_steps=1, lora=Lora(dropout=0.0)
    )
    result = train(model, examples, settings, tmp_path / "out", system_prompt="", placement=placement)
    assert result.steps == 2
    assert torch.equal(model.module.model.layers[0].mlp.up_proj.base_layer.weight, before)
    again = load_model(tmp_path / "base", placement)
    adapted = load_adapter(again, tmp_path / "out")
    ids = torch.tensor([examples[0].input_ids], device=again.module.device)
    with torch.no_grad():
        difference = (model.module(input_ids=ids).logits - adapted(input_ids=ids).logits).abs().max()
    assert difference < 1e-4


@pytest.mark.parametrize(
    ("device", "installed", "asked"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_ligers_kernels_are_for_a_gpu_that_has_them_and_leave_the_loss_alone(
    monkeypatch, tmp_path, device, installed, asked
):
    monkeypatch.setattr("transformers.utils.is_liger_kernel_available", lambda: installed)
    kernels = Placement(device, "float32", False, None).kernels()
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **kernels)
    assert arguments.use_liger_kernel is asked
    own = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    assert arguments.liger_kernel_config == (own if asked else None)
