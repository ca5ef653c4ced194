"""Negative log-likelihood from hidden states, without ever holding the logits of all positions.

With a vocabulary of 151,936, the logits of one row of 500 tokens take 300 MB, as do their softmax and its gradient.
Here a few positions at a time are projected, and their gradient is taken at once (as in Liger's fused linear cross
entropy, Hsu et al. 2024). The projection is frozen under LoRA, so the hidden states' gradient is all there is.
"""

from collections.abc import Callable
from typing import Any

import torch

CHUNK = 1 << 22
"""Logits held at a time: 16 MB in fp32, and eight times that on a GPU, where small steps are slow ones."""

Term = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""From logits (m, vocabulary) in fp32, targets (m) and the places of these m among all n to nats (m, terms)."""


def nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """-log p(target) in nats for each of ``hidden`` (n, width), with p from a frozen projection ``weight``
    (vocabulary, width) and ``bias`` (vocabulary) or None; ``targets`` (n) are ids. Returns (n) in fp32."""
    values: torch.Tensor = _Nll.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return values


def each(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    term: Term,
    terms: int,
) -> torch.Tensor:
    """What ``term`` makes of the logits of each of ``hidden``, (n, terms) in fp32; otherwise as ``nll``. A row of
    ``term`` may depend on its own logits only."""
    values: torch.Tensor = _Each.apply(hidden, weight, bias, targets, term, terms)  # type: ignore[no-untyped-call]
    return values


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        values = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        rows = _rows(weight)
        room = weight.new_empty(min(rows, len(hidden)), weight.shape[0])
        for start in range(0, len(hidden), rows):
            here = hidden[start : start + rows].to(weight.dtype)
            logits = torch.mm(here, weight.T, out=room[: len(here)])
            logits = (logits if bias is None else logits.add_(bias)).float()
            wanted_ids = targets[start : start + rows, None]
            highest = logits.amax(dim=1, keepdim=True)
            target = logits.gather(1, wanted_ids) - highest
            likely = logits.sub_(highest).exp_()
            total = likely.sum(dim=1, keepdim=True)
            values[start : start + rows] = (total.log() - target)[:, 0]
            if gradient is not None:
                slope = likely.div_(total)  # the softmax, minus one at the target
                slope.scatter_add_(1, wanted_ids, slope.new_full(wanted_ids.shape, -1.0))
                gradient[start : start + rows] = (slope.to(weight.dtype) @ weight).to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype)[:, None], None, None, None


class _Each(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor,
        term: Term, terms: int,
    ) -> torch.Tensor:  # fmt: skip
        wanted = ctx.needs_input_grad[0]
        values = torch.zeros(len(hidden), terms, dtype=torch.float32, device=hidden.device)
        gradient = hidden.new_empty(terms if wanted else 0, *hidden.shape)
        rows = _rows(weight)
        for start in range(0, len(hidden), rows):
            here = slice(start, min(start + rows, len(hidden)))
            with torch.set_grad_enabled(wanted):
                part = hidden[here].detach().requires_grad_(wanted)
                logits = torch.nn.functional.linear(part.to(weight.dtype), weight, bias).float()
                found = term(logits, targets[here], here)
                sums = found.sum(dim=0).unbind()
            values[here] = found.detach()
            for i in range(len(gradient)):
                (gradient[i, here],) = torch.autograd.grad(sums[i], part, retain_graph=i + 1 < terms)
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        slope = torch.einsum("tnw,nt->nw", gradient, grads[0].to(gradient.dtype))
        return slope, None, None, None, None, None


def _rows(weight: torch.Tensor) -> int:
    """Positions that are projected at a time."""
    return max(1, CHUNK * (8 if weight.is_cuda else 1) // weight.shape[0])
