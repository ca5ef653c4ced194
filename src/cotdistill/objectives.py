"""Objectives: the losses a student can be trained with, each from logits or log-probabilities to nats a token.

    sft            -log p(token)                                                   Ho et al. 2022, arXiv:2212.10071
    step_by_step   alpha * label + (1 - alpha) * rationale                         Hsieh et al. 2023, arXiv:2305.02301
    offline_kd     (1 - weight) * -log p(token) + weight * KL(teacher || student)  Hinton et al. 2015, arXiv:1503.02531
    on_policy      generalised JSD of teacher and student on the student's text    Agarwal et al. 2023, arXiv:2306.13649

A teacher's distribution is known by its ``k`` likeliest tokens; all others are one bucket, the last, so that both
distributions still sum to one. Pooling tokens can only make a divergence smaller, so each is a lower bound.
"""

import math

import torch
from torch.nn.functional import cross_entropy

LEAST = 1e-6
"""What the bucket of all other tokens holds at least: 1 - p has no more digits in fp32, and 0 has no logarithm."""


def nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log p(target) of ``logits`` (n, vocabulary) and ids (n): (n)."""
    return cross_entropy(logits, targets, reduction="none")


def log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (n, k) of ``ids`` (n, k) under ``logits`` (n, vocabulary)."""
    return logits.gather(1, ids) - logits.logsumexp(dim=1, keepdim=True)


def with_rest(top: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (n, k) and, as the last column, that of all tokens not among them: (n, k + 1)."""
    known = top.logsumexp(dim=1, keepdim=True).clamp(max=math.log1p(-LEAST))
    return torch.cat([top, torch.log(-torch.expm1(known))], dim=1)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of log-probabilities (n, buckets) each: (n)."""
    return (p.exp() * (p - q)).sum(dim=1)


def generalised_jsd(teacher: torch.Tensor, student: torch.Tensor, beta: float) -> torch.Tensor:
    """beta * KL(teacher || m) + (1 - beta) * KL(student || m) with m = beta * teacher + (1 - beta) * student, of
    log-probabilities (n, buckets): (n). At its ends, where that is 0, the limit of its direction is taken: at 0
    KL(teacher || student), at 1 KL(student || teacher), the reverse KL of MiniLLM (Gu et al. 2023,
    arXiv:2306.08543), here token by token and without its gradient through the sampling."""
    if beta == 0.0:
        return kl(teacher, student)
    if beta == 1.0:
        return kl(student, teacher)
    mixed = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)


def per_token(counts: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The factor of each term's sum (terms): its share of the loss in ``shares`` (terms), divided by its number of
    tokens in ``counts`` (terms). So the loss weighs the terms' means. 0 for a term without tokens."""
    return torch.where(counts > 0, shares / counts.clamp(min=1), torch.zeros_like(shares))
