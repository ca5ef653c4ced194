"""Layout: how the rows of a batch lie side by side. It decides what is computed, never what comes out.

    padded    [s a b c .]     packed    [s a b c d e f g]     rows "s a b c" and "s d e f g": what both begin with,
              [s d e f g]                                     here s, is computed once

A packed line has no padding, and rows with the same system prompt, or several traces of one question, share what
they have in common. Attention sees each row alone (``packed_attention.py``).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from cotdistill.example import IGNORE, Example

Place = tuple[int, int]
"""Start and stop in the line."""


class Row(NamedTuple):
    """``own`` is what only this row brought into the line; ``whole`` is where all of it lies, in order."""

    own: Place
    whole: tuple[Place, ...]


class Batch(NamedTuple):
    """``ids``, ``positions``, ``targets`` and ``mask`` are (rows, longest), or (1, line) with ``rows`` where packed.

    ``targets`` holds, at each position, the id that is to come next, ``IGNORE`` where it is not trained.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor | None = None
    rows: tuple[Row, ...] = ()


def pad(examples: Sequence[Example], pad_id: int) -> Batch:
    """Right-padded rows. The mask comes from lengths: the pad id may be the end-of-turn id, which is trained."""
    longest = max(len(example.input_ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id)
    targets = torch.full((len(examples), longest), IGNORE)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length] = torch.tensor(example.input_ids)
        targets[row, : length - 1] = torch.tensor(example.labels[1:])
        mask[row, :length] = 1
    return Batch(ids, torch.arange(longest).expand_as(ids), targets, mask)


def pack(examples: Sequence[Example]) -> Batch:
    """All rows in one line, shared prefixes once. What predicts an answer token is never shared: the answers of
    two rows may begin differently."""
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    rows: list[Row] = []
    before: Example | None = None
    for example in ordered(examples):
        shared = _shared(before, example)
        own = (len(ids), len(ids) + len(example.input_ids) - shared)
        ids += example.input_ids[shared:]
        positions += range(shared, len(example.input_ids))
        targets += [*example.labels[1:], IGNORE][shared:]
        rows.append(Row(own, (*_first(rows[-1].whole if rows else (), shared), own)))
        before = example
    line = torch.tensor([ids, positions, targets])[:, None]
    return Batch(line[0], line[1], line[2], rows=tuple(rows))


def ordered(examples: Iterable[Example]) -> list[Example]:
    """The rows as a line holds them. Rows in this order have their answer tokens in the same order in any layout."""
    return sorted(examples, key=lambda example: example.input_ids)


def split(examples: Sequence[Example], most: int) -> list[list[Example]]:
    """The rows in groups that make lines of at most ``most`` tokens, a longer row alone; rows that begin alike stay
    together."""
    groups: list[list[Example]] = []
    room = 0
    for example in ordered(examples):
        own = len(example.input_ids) - _shared(groups[-1][-1] if groups else None, example)
        if not groups or own > room:
            groups.append([])
            own, room = len(example.input_ids), most
        groups[-1].append(example)
        room -= own
    return groups


def _shared(before: Example | None, example: Example) -> int:
    if before is None:
        return 0
    most = min(before.prompt_length, example.prompt_length) - 1
    pairs = zip(before.input_ids[:most], example.input_ids[:most], strict=True)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), max(most, 0))


def _first(whole: tuple[Place, ...], length: int) -> Iterable[Place]:
    """The first ``length`` tokens of a row."""
    for start, stop in whole:
        if length <= 0:
            return
        yield start, min(stop, start + length)
        length -= stop - start
