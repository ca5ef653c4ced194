"""Objectives: each loss is the sum that its paper writes down, one token at a time."""

import math

import pytest
import torch

from cotdistill.objectives import generalised_jsd, kl, log_probs, nll, per_token, with_rest

torch.manual_seed(0)
LOGITS = torch.randn(6, 11)
OTHER = torch.randn(6, 11) * 2


def pooled(logits, ids):
    """Probabilities of ``ids`` and of all others together, in plain numbers."""
    p = [math.exp(x) for x in logits]
    p = [x / sum(p) for x in p]
    return [*(p[i] for i in ids), sum(x for i, x in enumerate(p) if i not in ids)]


def naive_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive_jsd(p, q, beta):
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * naive_kl(p, m) + (1 - beta) * naive_kl(q, m)


def test_nll_is_the_negative_log_of_the_softmax_at_the_target():
    found = nll(LOGITS, torch.tensor([0, 3, 10, 2, 2, 7]))
    for row, target, value in zip(LOGITS.tolist(), [0, 3, 10, 2, 2, 7], found.tolist(), strict=True):
        assert value == pytest.approx(-math.log(pooled(row, [target])[0]), abs=1e-5)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_rest_is_one_bucket_and_all_sums_to_one(k):
    ids = LOGITS.topk(k).indices
    found = with_rest(log_probs(LOGITS, ids)).exp()
    assert torch.allclose(found.sum(dim=1), torch.ones(6), atol=1e-5)
    for row, chosen, values in zip(LOGITS.tolist(), ids.tolist(), found.tolist(), strict=True):
        assert values == pytest.approx(pooled(row, chosen), abs=1e-5)


def test_a_rest_that_rounds_to_nothing_has_a_logarithm_and_a_gradient():
    certain = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    found = with_rest(log_probs(certain, torch.tensor([[0]])))
    assert found[0, 1].exp().item() == pytest.approx(1e-6, rel=0.1)
    found.sum().backward()
    assert torch.isfinite(certain.grad).all()


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_the_generalised_jsd_is_that_of_the_paper(k, beta):
    ids = LOGITS.topk(k).indices
    teacher, student = (with_rest(log_probs(logits, ids)) for logits in (LOGITS, OTHER))
    found = generalised_jsd(teacher, student, beta).tolist()
    for one, other, chosen, value in zip(LOGITS.tolist(), OTHER.tolist(), ids.tolist(), found, strict=True):
        assert value == pytest.approx(naive_jsd(pooled(one, chosen), pooled(other, chosen), beta), abs=1e-5)


def test_the_ends_of_beta_are_the_two_directions_of_kl_and_its_limits():
    teacher, student = (logits.log_softmax(dim=1) for logits in (LOGITS, OTHER))
    for row in range(6):
        p, q = (logits[row].exp().tolist() for logits in (teacher, student))
        assert generalised_jsd(teacher, student, 0.0)[row].item() == pytest.approx(naive_kl(p, q), abs=1e-5)
        assert generalised_jsd(teacher, student, 1.0)[row].item() == pytest.approx(naive_kl(q, p), abs=1e-5)
    near = generalised_jsd(teacher.double(), student.double(), 1e-5) / 1e-5
    assert torch.allclose(near, kl(teacher, student).double(), rtol=1e-2)


def test_equal_distributions_are_zero_nats_apart_and_fewer_tokens_never_make_it_more():
    same = with_rest(log_probs(LOGITS, LOGITS.topk(4).indices))
    assert generalised_jsd(same, same, 0.5).abs().max() < 1e-6
    last = torch.zeros(6)
    for k in (1, 3, 6, 10):
        ids = LOGITS.topk(k).indices
        now = kl(with_rest(log_probs(LOGITS, ids)), with_rest(log_probs(OTHER, ids)))
        assert (now >= last - 1e-5).all()
        last = now


def test_terms_are_means_of_the_whole_step_and_one_without_tokens_has_no_weight():
    assert per_token(torch.tensor([10, 40]), torch.tensor([0.25, 0.75])).tolist() == pytest.approx([0.025, 0.01875])
    assert per_token(torch.tensor([0, 40]), torch.tensor([0.25, 0.75])).tolist() == pytest.approx([0, 0.01875])
