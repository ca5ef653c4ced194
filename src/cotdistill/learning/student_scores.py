"""Student scores: how likely the student, as it is, finds texts that it may be taught; a forward pass over each."""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from cotdistill.example import Example, answer_tokens
from cotdistill.learning.layout import ordered
from cotdistill.learning.loss import AnswerLoss, choose
from cotdistill.model import Model

WINDOW = 256
"""Rows that are in memory, and sorted, at a time."""
AT_ONCE = 8
"""Rows padded to one length."""


def mean_nats(model: Model, rows: Iterable[Example]) -> Iterator[tuple[Example, float]]:
    """Each row with the mean -log p in nats of its answer tokens, the end of turn among them; in another order."""
    module = model.module.requires_grad_(False)
    loss: AnswerLoss | None = None
    for window in _parts(rows, WINDOW):
        loss = loss or choose(module, window, model.template.pad_id, pack=module.device.type == "cpu")
        for group in _groups(loss, window):
            with torch.no_grad(), loss:
                nats = loss.tokens(module, group).cpu()
            texts = torch.split(nats, [answer_tokens(row) for row in group])
            yield from ((row, float(text.mean())) for row, text in zip(group, texts, strict=True))


def _groups(loss: AnswerLoss, window: list[Example]) -> Iterator[list[Example]]:
    """Rows that are computed together: in a line those that begin alike, padded ones of about one length."""
    if loss.packed:
        yield from loss.groups(window)
    else:
        by_length = sorted(window, key=lambda row: len(row.input_ids))
        yield from map(ordered, _parts(by_length, AT_ONCE))


def _parts(rows: Iterable[Example], size: int) -> Iterator[list[Example]]:
    left = iter(rows)
    while part := list(islice(left, size)):
        yield part
