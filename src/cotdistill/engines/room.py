"""Room: how many rows of a batch fit, counted in the tokens that they may come to hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from cotdistill.engines.growing_batch import GrowingBatch, Row
from cotdistill.machine import available_memory
from cotdistill.model import head_size

SHARE = 0.25
"""The part of the free memory that keys and values may take: for a moment, when rows join, they are there twice, and
the other half is for what is computed."""


@dataclass(frozen=True)
class Room:
    """At most ``rows`` rows, and at most ``tokens`` tokens of prompt, padding and answer in all of them together."""

    rows: int
    tokens: int | None

    @classmethod
    def of(cls, module: Any, rows: int) -> Self:
        """The room that this model has on its device now, in at most ``rows`` rows."""
        free = free_memory(torch.device(module.get_input_embeddings().weight.device))
        return cls(rows, None if free is None else int(free * SHARE / token_bytes(module)))

    def free(self, batch: GrowingBatch | None, todo: Sequence[Row]) -> int:
        """How many rows from the end of ``todo``, the next ones, there is room for; one always fits an empty batch."""
        there = batch.rows if batch else []
        width = max((len(row.prompt) + row.limit for row in there), default=0)
        count = 0
        while count < len(todo) and len(there) + count < self.rows:
            row = todo[-1 - count]
            width = max(width, len(row.prompt) + row.limit)
            if self.tokens is not None and (len(there) + count + 1) * width > self.tokens and (there or count):
                break
            count += 1
        return count


def token_bytes(module: Any) -> int:
    """What a token takes in the keys and values of all layers; at most, for models that keep less."""
    config = module.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None) or 1
    return int(2 * config.num_hidden_layers * heads * head_size(config) * module.dtype.itemsize)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return available_memory()
