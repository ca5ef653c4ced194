"""GrowingBatch: rows that are written together; some leave when they have ended, others take their places.

    ids    [ . . s y s t e m . q u e s t i o n a n s ]      . is padding: mask 0
           [ s y s t e m . . . . . q u e s t a n s w ]      keys and values of all but the last column are kept

Rows are padded on the left, and once more behind a prefix that they share with others.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SEGMENT = 16
"""Tokens between two looks at which rows have ended."""


@dataclass
class Row:
    """A prompt and what has been written after it, at most ``limit`` ids, or the ``error`` that came instead.
    ``rng`` draws the ids where they are sampled."""

    prompt: list[int]
    limit: int
    rng: random.Random | None = None
    written: list[int] = field(default_factory=list)
    error: str | None = None


@dataclass
class GrowingBatch:
    """``ids`` and ``mask`` (rows, width); ``cache`` holds width - 1 columns, or is None before any was computed."""

    rows: list[Row]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any

    @property
    def width(self) -> int:
        return int(self.ids.shape[1])

    def select(self, indices: Sequence[int]) -> None:
        """Keep these rows, in this order, without the columns that are padding in all of them."""
        at = torch.tensor(indices, dtype=torch.long)  # in main memory: the layers' keys may lie on several GPUs
        self.rows = [self.rows[i] for i in indices]
        self.ids, self.mask = self.ids[at], self.mask[at]
        if self.cache is not None:
            self.cache.reorder_cache(at)  # layers that keep a state instead of keys and values implement this too
        if not self.rows or not is_plain(self.cache):
            return
        empty = int(self.mask.any(dim=0).int().argmax())
        if empty:
            self.ids, self.mask = self.ids[:, empty:], self.mask[:, empty:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[..., empty:, :], layer.values[..., empty:, :]

    def join(self, other: Self, fill: int) -> None:
        """Take in the rows of ``other``. Both caches must be plain."""
        width = max(self.width, other.width)
        self.rows = self.rows + other.rows
        self.mask = torch.cat([pad(one.mask, (width - one.width, 0)) for one in (self, other)])
        self.ids = torch.cat([pad(one.ids, (width - one.width, 0), value=fill) for one in (self, other)])
        joined = DynamicCache()
        for number, layers in enumerate(zip(self.cache.layers, other.cache.layers, strict=True)):
            missing = [(0, 0, width - 1 - layer.keys.shape[-2], 0) for layer in layers]
            keys = torch.cat([pad(layer.keys, by) for layer, by in zip(layers, missing, strict=True)])
            values = torch.cat([pad(layer.values, by) for layer, by in zip(layers, missing, strict=True)])
            joined.update(keys, values, number)
        self.cache = joined


class RoomyLayer(DynamicLayer):
    """Keys and values (rows, heads, columns, size) inside a larger tensor: a new column is written in place, while
    transformers' plain layer copies all columns for each new one."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._make_room(keys, values)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if end > self._room[0].shape[-2] or self._moved():
            self._make_room(self.keys, self.values, end - start)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:end, :] = states
        self.keys, self.values = (room[..., :end, :] for room in self._room)
        return self.keys, self.values

    def _make_room(self, keys: torch.Tensor, values: torch.Tensor, more: int = 0) -> None:
        columns = keys.shape[-2]
        wide = columns + more + SEGMENT
        self._room = [one.new_empty((*one.shape[:-2], wide, one.shape[-1])) for one in (keys, values)]
        for room, states in zip(self._room, (keys, values), strict=True):
            room[..., :columns, :] = states
        self.keys, self.values = (room[..., :columns, :] for room in self._room)

    def _moved(self) -> bool:
        """Whether ``keys`` were replaced from outside: rows were selected, or columns cut off."""
        return self.keys.data_ptr() != self._room[0].data_ptr() or self.keys.shape[0] != self._room[0].shape[0]


def roomy(cache: Any) -> Any:
    """The same cache with room to grow, where it is plain."""
    if is_plain(cache):
        cache.layers = [one if type(one) is RoomyLayer else RoomyLayer(one.keys, one.values) for one in cache.layers]
    return cache


def is_plain(cache: Any) -> bool:
    """Whether every layer keeps keys and values of all columns, which can be padded and cut; others keep a window or
    a state."""
    layers = getattr(cache, "layers", None)
    return layers is not None and all(type(one) in (DynamicLayer, RoomyLayer) for one in layers)
