"""SharedPrefix: what prompts have in common at their start, the system prompt and worked examples, computed once."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from cotdistill.engines.growing_batch import is_plain

log = logging.getLogger(__name__)

WORTH = 16
"""Tokens: a shorter prefix is computed for each prompt."""
TOLERANCE = 1e-3
"""How far a logit may move in float32, as a share of the largest one; in the short formats ``SHORT_TOLERANCE``."""
SHORT_TOLERANCE = 5e-2
PADDING = 3
"""Columns of padding in the check."""


class SharedPrefix:
    """``ids`` and their keys and values, which are copied for each batch."""

    def __init__(self, ids: list[int], cache: Any) -> None:
        self.ids = ids
        self._cache = cache

    def begins(self, prompt: Sequence[int]) -> bool:
        """Whether ``prompt`` goes on from here, by at least a token."""
        return len(prompt) > len(self.ids) and list(prompt[: len(self.ids)]) == self.ids

    def cache(self, rows: int) -> DynamicCache:
        """A cache of its own for a batch of ``rows``."""
        copy = DynamicCache()
        for number, layer in enumerate(self._cache.layers):
            keys, values = (one.expand(rows, -1, -1, -1) for one in (layer.keys, layer.values))
            copy.update(keys, values, number)
        return copy


def common_length(prompts: Sequence[list[int]]) -> int:
    """How many ids all prompts begin with, the last id of the shortest left out: it must be computed to go on."""
    first, last = min(prompts), max(prompts)  # of lists in their order, these two differ first
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, prompts)) - 1)


def share(prompts: Sequence[list[int]], generate: Callable[..., Any], device: torch.device) -> SharedPrefix | None:
    """The prefix of all ``prompts``, computed by ``generate`` (ids, mask, cache: one token more), or None where it
    is too short or the model's cache cannot be copied."""
    length = common_length(prompts)
    if length < WORTH or len(prompts) < 2:
        return None
    ids = prompts[0][:length]
    row = torch.tensor([ids], device=device)
    cache = generate(row, torch.ones_like(row)).cache
    return SharedPrefix(ids, cache) if is_plain(cache) else None


def holds(prefix: SharedPrefix, prompt: list[int], generate: Callable[..., Any], fill: int,
          device: torch.device, dtype: str) -> bool:  # fmt: skip
    """Whether the model gives the logits after ``prompt`` also from the prefix on, with padding behind it.

    Models differ in how they place tokens, and one that places them by their column counts the padding too.
    """
    length = len(prefix.ids)
    plain = torch.tensor([prompt], device=device)
    padded = torch.tensor([prefix.ids + [fill] * PADDING + prompt[length:]], device=device)
    mask = torch.ones_like(padded)
    mask[:, length : length + PADDING] = 0
    expected = generate(plain, torch.ones_like(plain), logits=True).logits[0]
    found = generate(padded, mask, prefix.cache(1), logits=True).logits[0]
    moved = float((found - expected).abs().max() / expected.abs().max())
    if moved <= (TOLERANCE if dtype == "float32" else SHORT_TOLERANCE):
        return True
    log.info("the model answers otherwise from a shared prompt (%.2g): it is computed for each question", moved)
    return False
