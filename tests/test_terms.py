"""Terms: whichever way rows lie in memory, each objective's loss and gradient are those of full logits, row by row."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import make_examples, on_cpu, teach
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example
from cotdistill.learning import chunked
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.teacher_scores import Scores
from cotdistill.learning.terms import OfflineKd, StepByStep, Terms
from test_loss import WAYS, adapted, assert_same_gradients, gradients
from test_training import interrupt_at


def two_tasks(model, count=3):
    rows = make_examples(model, count)
    end = rows[0].input_ids[-1]
    short = [Example(r.trace_id, r.question_id, [*r.input_ids[2 : r.prompt_length], 70 + i, end], r.prompt_length - 2,
                     "label") for i, r in enumerate(rows)]  # fmt: skip
    return [row for pair in zip(rows, short, strict=True) for row in pair]


def row_logits(module, row):
    """Logits and targets of the answer tokens."""
    logits = module(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
    targets = torch.tensor(row.labels[1:])
    return logits[targets != IGNORE], targets[targets != IGNORE]


def made_up(row):
    """Scores that depend on the row: three tokens, half of the mass between them."""
    n = len(row.input_ids) - row.prompt_length
    generator = torch.Generator().manual_seed(sum(row.input_ids))
    ids = torch.stack([torch.randperm(200, generator=generator)[:3] for _ in range(n)])
    return Scores(ids.int(), torch.tensor([0.3, 0.15, 0.05]).log().expand(n, 3).half())


def whole_loss(terms, module, rows):
    """Each group is given in another order than a line holds it."""
    weights = terms.weights(torch.tensor(terms.counts(rows)))
    return sum(terms.sums(module, group[::-1]) @ weights for group in terms.groups(rows))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_step_by_step_is_alpha_times_the_mean_over_labels_and_the_rest_over_rationales(tiny, monkeypatch, way):
    monkeypatch.setattr(chunked, "CHUNK", 2_000)
    model, module = adapted(tiny)
    rows = two_tasks(model)
    means = {}
    for task in ("label", "reasoning"):
        parts = [row_logits(module, row) for row in rows if row.task == task]
        means[task] = cross_entropy(torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts]))
    expected = 0.2 * means["label"] + 0.8 * means["reasoning"]
    expected.backward()
    wanted = gradients(module)
    loss = AnswerLoss(module, model.template.pad_id, **way)
    with loss:
        found = whole_loss(StepByStep(loss, module, alpha=0.2), module, rows)
        found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(module, wanted)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_offline_kd_mixes_the_nll_with_the_kl_to_the_stored_tokens_and_their_rest(tiny, monkeypatch, way):
    monkeypatch.setattr(chunked, "CHUNK", 2_000)
    model, module = adapted(tiny)
    rows = make_examples(model, 4)
    total, count = torch.zeros(()), 0
    for row in rows:
        logits, targets = row_logits(module, row)
        ids, log_probs = made_up(row)
        for i, target in enumerate(targets):
            p = logits[i].softmax(dim=0)
            top, teacher = p[ids[i].long()], log_probs[i].float().exp()
            student = torch.cat([top, (1 - top.sum())[None]])
            teacher = torch.cat([teacher, (1 - teacher.sum())[None]])
            total = total + 0.75 * -p[target].log() + 0.25 * (teacher * (teacher / student).log()).sum()
            count += 1
    expected = total / count
    expected.backward()
    wanted = gradients(module)
    loss = AnswerLoss(module, model.template.pad_id, **way)
    with loss:
        found = whole_loss(OfflineKd(loss, module, scores=made_up, weight=0.25), module, rows)
        found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(module, wanted)


def assert_same_terms(found, wanted, **within):
    """The same terms were logged, one at least, at the same steps, and their nats differ ``within`` pytest's bounds."""
    assert wanted
    assert found.keys() == wanted.keys()
    for name, logged in wanted.items():
        assert logged
        assert dict(found[name]) == pytest.approx(dict(logged), **within)


def run(tiny, output, objective, rows, **settings):
    """``conftest.teach`` with other terms."""
    from cotdistill import training

    original = training.train
    try:
        training.train = partial(original, objective=objective)
        return teach(tiny, output, examples=rows, **settings)
    finally:
        training.train = original


def test_each_term_is_logged_beside_the_loss_and_on_its_scale(tiny, tmp_path):
    rows = two_tasks(on_cpu(tiny))
    result = run(tiny, tmp_path, partial(StepByStep, alpha=0.25), rows, batch_size=2, gradient_accumulation_steps=3)
    ((_, label),), ((_, rationale),) = result.terms["label"], result.terms["rationale"]
    assert result.losses == [(1, pytest.approx(0.25 * label + 0.75 * rationale, abs=1e-4))]


def test_one_plain_term_is_not_logged_twice(tiny, tmp_path):
    assert run(tiny, tmp_path, Terms, make_examples(on_cpu(tiny), 2)).terms == {}


@pytest.mark.parametrize("objective", [partial(StepByStep, alpha=0.5), partial(OfflineKd, scores=made_up, weight=0.5)],
                         ids=["step_by_step", "offline_kd"])  # fmt: skip
def test_an_interrupted_training_goes_on_to_the_same_losses(tiny, tmp_path, objective):
    rows = two_tasks(on_cpu(tiny))
    long = {"batch_size": 2, "num_epochs": 3, "learning_rate": 1e-3, "lora": {"dropout": 0.2}}
    whole = run(tiny, tmp_path / "whole", objective, rows, **long)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "cut", objective, rows, show=interrupt_at(5), **long)
    again = run(tiny, tmp_path / "cut", objective, rows, **long)
    assert again.losses == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in whole.losses]
    assert_same_terms(again.terms, whole.terms, abs=1e-5)


def test_a_divergence_that_is_not_finite_stops_the_training(tiny, tmp_path):
    def damaged(row):
        return Scores(made_up(row).ids, made_up(row).log_probs * float("nan"))

    with pytest.raises(TrainingError, match="the loss at step 1"):
        run(tiny, tmp_path, partial(OfflineKd, scores=damaged, weight=0.5), make_examples(on_cpu(tiny), 2))
