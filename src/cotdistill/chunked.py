"""Negative log-likelihood from hidden states, without ever holding the logits of all positions.

With a vocabulary of 151,936, the logits of one row of 500 tokens take 300 MB, as do their softmax and its gradient.
Here a few positions at a time are projected, and their gradient is taken at once (as in Liger's fused linear cross
entropy, Hsu et al. 2024). The projection is frozen under LoRA, so the hidden states' gradient is all there is.
"""

from typing import Any

import torch

CHUNK = 1 << 23
"""Logits held at a time: 32 MB in fp32."""


def nll(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Sum over ``hidden`` (n, width) of -log p(target) in nats, with p from a frozen projection ``weight``
    (vocabulary, width) and ``bias`` (vocabulary) or None; ``targets`` (n) are ids. Returns a scalar in fp32."""
    total: torch.Tensor = _Nll.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return total


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        rows = max(1, CHUNK // weight.shape[0])
        for start in range(0, len(hidden), rows):
            logits = torch.nn.functional.linear(hidden[start : start + rows].to(weight.dtype), weight, bias).float()
            wanted_ids = targets[start : start + rows, None]
            scale = logits.logsumexp(dim=1, keepdim=True)
            total += (scale - logits.gather(1, wanted_ids)).sum()
            if gradient is not None:
                slope = logits.sub_(scale).exp_()  # the softmax, minus one at the target
                slope.scatter_add_(1, wanted_ids, slope.new_full(wanted_ids.shape, -1.0))
                gradient[start : start + rows] = (slope.to(weight.dtype) @ weight).to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None
