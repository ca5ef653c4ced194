"""What a GPU computes in 16 bits, here on the CPU: every objective trains, on padded rows, as it does there."""

import pytest
import torch

import cotdistill.training as training
from conftest import make_examples, make_model
from cotdistill.hardware import Placement
from cotdistill.learning import objective_choice, teacher_scores
from cotdistill.learning.loss import choose
from cotdistill.learning.scoring_teacher import ScoringTeacher
from cotdistill.model import load_model
from cotdistill.settings.objective import OnPolicySettings
from cotdistill.settings.train import TrainSettings

BF16 = Placement("cpu", "bfloat16", False, None)


@pytest.fixture(scope="module")
def sure(tmp_path_factory):
    """A model that is as sure of its tokens as a real one: its logits are far apart, and so coarse in 16 bits."""
    directory = make_model(tmp_path_factory.mktemp("sure"), seed=7)
    model = load_model(directory, Placement("cpu", "float32", False, None))
    model.module.lm_head.weight.data.mul_(40)
    model.module.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("objective", ["sft", "on_policy", "offline_kd"])
def test_every_objective_trains_in_bf16(tiny, sure, tmp_path, monkeypatch, objective):
    for module in (training, teacher_scores):
        monkeypatch.setattr(module, "choose", lambda *given, **more: choose(*given, **{**more, "pack": False}))
    model = load_model(tiny, BF16)
    rows = make_examples(model, 4)
    settings = TrainSettings(
        num_epochs=2, batch_size=4, gradient_accumulation_steps=1, learning_rate=1e-2, objective=objective,
        on_policy=OnPolicySettings(max_new_tokens=8),
    )  # fmt: skip
    prompts = {row.question_id: row.input_ids[: row.prompt_length] for row in rows}
    teacher = None if objective == "sft" else ScoringTeacher(str(sure), tmp_path / "scores.safetensors")
    terms = objective_choice.open_objective(
        settings, model, rows, teacher, max_length=512, placement=BF16, prompts=prompts, quiet=True
    )
    trained = training.train(
        model, rows, settings, tmp_path / "out", system_prompt="Add.", placement=BF16, objective=terms
    )
    assert trained.steps == 2
    assert all(loss > 0 for _, loss in trained.losses)
    assert torch.isfinite(torch.tensor([loss for _, loss in trained.losses])).all()


def test_a_teacher_that_is_sure_is_read_from_the_beginning_of_its_prompts_on(sure):
    model = load_model(sure, BF16)
    rows = make_examples(model, 4)
    teacher = teacher_scores.LoadedTeacher(model, range(len(model.tokenizer)), 5, rows)
    assert teacher._prefix
