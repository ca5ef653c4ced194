"""The adapter that does best on the validation questions is the one that is kept, whatever interrupts the training."""

import pytest
import torch
from transformers import TrainerCallback

from conftest import make_examples, on_cpu, teach, weights
from cotdistill import training
from cotdistill.adapter import load_adapter
from cotdistill.errors import TrainingError
from cotdistill.example import Example, validation_split
from cotdistill.learning.trainer import AnswerTrainer
from cotdistill.learning.watch import Watch
from test_training import farthest, interrupt_at, reference_loss

LONG = {
    "rows": 12, "batch_size": 2, "gradient_accumulation_steps": 2, "num_epochs": 5, "learning_rate": 0.03,
    "lr_scheduler": "constant", "lora": {"dropout": 0.2}, "validation": 0.3,
}  # fmt: skip
"""8 rows to train on in two steps an epoch, 4 to try it on; so fast that it gets worse."""


def rows(questions: int, traces: int = 2) -> list[Example]:
    return [Example(f"q{q}#{s}", f"q{q}", [1, 2, 3], 1) for q in range(questions) for s in range(traces)]


def test_whole_questions_are_set_aside_and_no_row_is_lost():
    kept, out = validation_split(rows(20), 0.25, 7)
    assert (len(kept), len(out)) == (30, 10)
    assert not {row.question_id for row in kept} & {row.question_id for row in out}
    assert [row for row in rows(20) if row in kept or row in out] == rows(20)


def test_which_questions_are_for_validation_depends_on_the_seed_and_not_on_the_order():
    _, out = validation_split(rows(20), 0.25, 7)
    assert {row.trace_id for row in validation_split(rows(20)[::-1], 0.25, 7)[1]} == {row.trace_id for row in out}
    assert validation_split(rows(20), 0.25, 8)[1] != out


def test_nothing_is_set_aside_unless_asked_for_and_something_always_remains():
    assert validation_split(rows(3), 0.0, 7) == (rows(3), [])
    assert len(validation_split(rows(3), 0.01, 7)[1]) == 2
    with pytest.raises(TrainingError, match="leaves none to train on"):
        validation_split(rows(3), 0.9, 7)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted training of ten steps."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("whole")
    return output, teach(tiny, output, **LONG)


def test_the_adapter_of_the_best_epoch_is_the_one_saved(tiny, whole):
    output, result = whole
    assert [step for step, _ in result.validation] == [2, 4, 6, 8, 10]
    measured = dict(result.validation)
    assert measured[result.best_step] == min(measured.values())
    assert result.best_step < 10
    model = on_cpu(tiny)
    _, out = validation_split(make_examples(model, 12), 0.3, 42)
    assert len(out) == 4
    found = reference_loss(load_adapter(model, output), out)
    assert found == pytest.approx(measured[result.best_step], abs=1e-4)


def test_validation_rows_are_never_trained_and_measuring_changes_nothing(tiny, tmp_path, whole, monkeypatch):
    step, seen = AnswerTrainer.training_step, set()

    def watched(self, model, inputs, *args):
        seen.update(row.trace_id for row in inputs["rows"])
        return step(self, model, inputs, *args)

    monkeypatch.setattr(AnswerTrainer, "training_step", watched)
    kept, out = validation_split(make_examples(on_cpu(tiny), 12), 0.3, 42)
    result = teach(tiny, tmp_path, examples=kept, **{**LONG, "validation": 0.0})
    assert result.validation == []
    assert result.best_step is None
    assert result.losses == whole[1].losses
    assert seen == {row.trace_id for row in kept}
    seen.clear()
    teach(tiny, tmp_path / "tried", **{**LONG, "num_epochs": 1})
    assert seen == {row.trace_id for row in kept}
    assert seen.isdisjoint(row.trace_id for row in out)


def test_training_stops_when_patience_is_used_up_and_keeps_the_same_best(tiny, tmp_path, whole):
    output, expected = whole
    result = teach(tiny, tmp_path, **LONG, patience=1)
    assert result.validation == expected.validation[: len(result.validation)]
    best = result.best_step
    assert best == result.validation[-2][0] == result.steps - 2
    assert result.steps < 10
    assert result.tokens < expected.tokens
    if best == expected.best_step:
        assert farthest(weights(tmp_path), weights(output)) == 0


@pytest.mark.parametrize("stops", [(3,), (4,), (5,), (7, 9)], ids=str)
def test_an_interrupted_training_measures_and_keeps_the_same(tiny, tmp_path, whole, stops):
    output, expected = whole
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            teach(tiny, tmp_path, show=interrupt_at(stop), **LONG)
    result = teach(tiny, tmp_path, **LONG)
    assert result.validation == expected.validation
    assert result.best_step == expected.best_step
    assert result.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in expected.losses]
    assert farthest(weights(output), weights(tmp_path)) < 1e-6


def test_a_training_that_was_killed_between_its_early_stop_and_the_adapter_is_only_finished(tiny, tmp_path, monkeypatch):
    early = {**LONG, "patience": 1}
    expected = teach(tiny, tmp_path / "whole", **early)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "save_adapter", killed)
        teach(tiny, tmp_path / "cut", **early)
    shown = []
    result = teach(tiny, tmp_path / "cut", show=shown.append, **early)
    assert shown == []
    assert (result.validation, result.best_step) == (expected.validation, expected.best_step)
    assert (result.steps, result.tokens, result.losses) == (expected.steps, expected.tokens, expected.losses)
    assert farthest(weights(tmp_path / "whole"), weights(tmp_path / "cut")) == 0


# Schedules, optimizers, shapes


@pytest.mark.parametrize(("name", "shape"), [
    ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
    ("cosine", [0.0, 0.5, 1.0, 0.854, 0.5, 0.146]),
])  # fmt: skip
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(tiny, tmp_path, monkeypatch, name, shape):
    rates = []
    note = Watch.on_log

    def noted(self, args, state, control, logs, **other):
        rates.extend([logs["learning_rate"]] if "learning_rate" in logs else [])
        note(self, args, state, control, logs, **other)

    monkeypatch.setattr(Watch, "on_log", noted)
    teach(tiny, tmp_path, batch_size=1, rows=6, lr_scheduler=name, warmup_ratio=0.34, learning_rate=1e-3)
    assert rates == [pytest.approx(1e-3 * part, abs=1e-6) for part in shape]


def test_the_8_bit_optimizer_trains_on_a_cpu_with_its_state_in_8_bits_and_resumes(tiny, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    settings = {"rows": 6, "batch_size": 2, "num_epochs": 2, "learning_rate": 1e-3, "lora": {"r": 128}}
    kinds: set[torch.dtype] = set()

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **_):
            states = optimizer.optimizer.state.values()
            kinds.update(value["state1"].dtype for value in states if "qmap1" in value)

    begin = AnswerTrainer.train

    def looked_at(self, **kwargs):
        self.add_callback(Look())
        return begin(self, **kwargs)

    monkeypatch.setattr(AnswerTrainer, "train", looked_at)
    result = teach(tiny, tmp_path / "whole", optim="adamw_8bit", **settings)
    assert kinds == {torch.uint8}
    assert result.losses[-1][1] < result.losses[0][1]
    with pytest.raises(KeyboardInterrupt):
        teach(tiny, tmp_path / "cut", optim="adamw_8bit", show=interrupt_at(4), **settings)
    again = teach(tiny, tmp_path / "cut", optim="adamw_8bit", **settings)
    assert again.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in result.losses]
    other = teach(tiny, tmp_path / "adamw", **settings)
    assert other.losses[:2] == [(step, pytest.approx(loss, abs=1e-3)) for step, loss in result.losses[:2]]
    assert farthest(weights(tmp_path / "whole"), weights(tmp_path / "adamw")) > 0


def test_dora_and_rslora_train_and_load_again(tiny, tmp_path):
    for shape in ({"use_dora": True}, {"use_rslora": True}):
        output = tmp_path / next(iter(shape))
        teach(tiny, output, lora=shape, learning_rate=1e-2)
        load_adapter(on_cpu(tiny), output)
        assert any("lora_magnitude_vector" in name for name in weights(output)) == ("use_dora" in shape)
    teach(tiny, tmp_path / "lora", learning_rate=1e-2)
    assert farthest(weights(tmp_path / "lora"), weights(tmp_path / "use_rslora")) > 0


def test_the_peak_memory_is_said_at_every_step_and_in_the_result(tiny, tmp_path):
    shown = []
    result = teach(tiny, tmp_path, show=shown.append, num_epochs=2)
    assert 1e8 < shown[0].peak_memory <= shown[-1].peak_memory <= result.peak_memory < 1e12
