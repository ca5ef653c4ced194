"""Draw: the next token of each row, sampled with random numbers that are that row's own.

transformers draws the tokens of a whole batch from one stream of random numbers, so that a sample would depend on the
rows that happened to be beside it. Here a row's tokens depend on its seed and its prompt alone.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor


class Draw(LogitsProcessor):
    """For a greedy ``generate``: leaves one token of each row possible, drawn from softmax(scores / temperature)
    among the likeliest tokens that hold ``top_p`` of it. ``rngs`` are in the order of the rows."""

    def __init__(self, rngs: Sequence[random.Random], temperature: float, top_p: float) -> None:
        self._rngs = rngs
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` (rows, vocabulary) become 0 for the token drawn and minus infinity elsewhere."""
        shares = (scores / self._temperature).softmax(dim=-1)
        shares = (shares.cpu() if shares.device.type == "mps" else shares).double()  # Apple's GPUs have no such numbers
        order = None
        if self._top_p < 1:
            shares, order = shares.sort(dim=-1, descending=True)
            shares = shares.where(shares.cumsum(dim=-1) - shares < self._top_p, 0.0)
        upto = shares.cumsum(dim=-1)
        # Below 1, so that what is sought lies below the last sum and its token has a share of its own.
        at = torch.tensor([[rng.random()] for rng in self._rngs], dtype=torch.double, device=shares.device)
        token = torch.searchsorted(upto, at * upto[:, -1:], right=True).clamp_max(scores.shape[1] - 1)
        if order is not None:
            token = order.gather(1, token)
        return torch.full_like(scores, -torch.inf).scatter(1, token.to(scores.device), 0.0)
