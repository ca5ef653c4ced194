"""Teacher scores: how likely the teacher finds what might stand at each answer token, by its likeliest tokens.

The log-probabilities are natural ones over the teacher's whole vocabulary, so those of ``k`` tokens sum to less than
one. Ids that mean another token to the student, or none, are not among them.
"""

import logging
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from cotdistill.engines.shared_prefix import SharedPrefix, share
from cotdistill.errors import TrainingError
from cotdistill.example import Example, after, answer_tokens
from cotdistill.learning.layout import ordered
from cotdistill.learning.loss import AnswerLoss, choose
from cotdistill.learning.relation import tokens_of
from cotdistill.model import Model

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Rows computed together."""


UNNAMED = -100.0
"""The log-probability of a column that names no token, and the least there is."""


class Scores(NamedTuple):
    """``ids`` (n, k) and their ``log_probs`` (n, k) at n answer tokens, likeliest first. Where fewer are known the last
    columns are ``UNNAMED``."""

    ids: torch.Tensor
    log_probs: torch.Tensor


ScoresOf = Callable[[Example], Scores]

NOTHING = Scores(torch.empty(0, 1, dtype=torch.int32), torch.empty(0, 1, dtype=torch.float16))
"""The scores of no token."""


def together(scores: Sequence[Scores]) -> Scores:
    """The scores of several rows joined to one, in their order."""
    if not scores:
        return NOTHING
    return Scores(torch.cat([one.ids for one in scores]), torch.cat([one.log_probs for one in scores]))


class Scorer(Protocol):
    """Who says how likely each token of a row is. It is best given ``at_once`` rows together, of ``readable`` ids, none
    of more tokens than its ``context``."""

    @property
    def at_once(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def readable(self) -> Container[int]: ...

    def score(self, rows: Sequence[Example]) -> list[Scores]: ...


class LoadedTeacher:
    """A model that says what it would have written in the place of a student. ``shared`` are the ids that mean the
    same to both; no others are among its answers. ``examples`` are some of the rows to come; what their prompts begin
    with, the system prompt and worked examples, it reads once."""

    at_once = AT_ONCE

    def __init__(self, model: Model, shared: Iterable[int], k: int, examples: Sequence[Example]) -> None:
        self._module = model.module.requires_grad_(False)
        self.context = model.context_length
        self.readable = frozenset(shared)
        self._k = min(k, len(self.readable))
        self._loss: AnswerLoss = choose(
            self._module, examples, model.template.pad_id, pack=self._module.device.type == "cpu"
        )
        self._prefix, self._going_on = self._begun(examples, model.template.pad_id)
        self._barred = torch.ones(model.module.get_output_embeddings().weight.shape[0], dtype=torch.bool)
        self._barred[sorted(self.readable)] = False
        self._barred = self._barred.to(self._loss.device)

    @torch.no_grad()
    def score(self, rows: Sequence[Example]) -> list[Scores]:
        """Scores of each row, in their order. Raises ``TrainingError`` for a row that it cannot read."""
        for row in rows:
            if not self.readable.issuperset(row.input_ids):
                raise TrainingError(f"{row.trace_id}: it holds a token that the teacher does not know")
            if len(row.input_ids) > self.context:
                raise TrainingError(
                    f"{row.trace_id} has {len(row.input_ids)} tokens with the teacher's prompt, the teacher's context "
                    f"{self.context}; lower --max_length, or show fewer worked examples"
                )
        begun = self._prefix
        if begun and all(begun.begins(row.input_ids[: row.prompt_length]) for row in rows):
            return self._scores(self._going_on, [after(row, len(begun.ids)) for row in rows])
        return self._scores(self._loss, rows)

    @torch.no_grad()
    def _begun(self, examples: Sequence[Example], pad_id: int) -> tuple[SharedPrefix | None, AnswerLoss]:
        """What all prompts begin with, and the loss of what comes after; none where the model's cache is no plain one
        or its answers are others from there on."""

        def read(ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return self._module(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)

        prompts = [row.input_ids[: row.prompt_length] for row in examples]
        prefix = share(prompts, read, self._loss.device)
        if prefix is None:
            return None, self._loss
        try:
            return prefix, choose(
                self._module, examples, pad_id, pack=self._loss.packed, prefix=prefix
            )
        except TrainingError:
            log.info("the teacher reads what prompts begin with for each row")
            return None, self._loss

    def _scores(self, loss: AnswerLoss, rows: Sequence[Example]) -> list[Scores]:
        found: dict[int, Scores] = {}
        places = {id(row): i for i, row in enumerate(rows)}
        lain = ordered(rows)
        with loss:
            for start in range(0, len(lain), AT_ONCE):
                for group in loss.groups(lain[start : start + AT_ONCE]):
                    lengths = [answer_tokens(row) for row in group]
                    ids, log_probs = self._likeliest(loss, group)
                    parts = zip(torch.split(ids, lengths), torch.split(log_probs, lengths), strict=True)
                    for row, (some, values) in zip(group, parts, strict=True):
                        found[places[id(row)]] = Scores(some.clone(), values.clone())  # not a view of all rows
        return [found[places[id(row)]] for row in rows]

    def _likeliest(self, loss: AnswerLoss, rows: list[Example]) -> Scores:
        kept: list[Scores] = []

        def keep(logits: torch.Tensor, targets: torch.Tensor, here: slice) -> torch.Tensor:
            likeliest = logits.log_softmax(dim=1).masked_fill_(self._barred, -torch.inf).topk(self._k, dim=1)
            kept.append(Scores(likeliest.indices.int().cpu(), likeliest.values.clamp(min=UNNAMED).half().cpu()))
            return logits.new_zeros(len(logits), 1)

        loss.each(self._module, rows, keep, 1)
        return together(kept)


def shared_ids(student: Any, teacher: Any) -> list[int]:
    """The ids that stand for the same token in two transformers tokenizers."""
    ours, theirs = tokens_of(student), tokens_of(teacher)
    return sorted(index for _, index in (ours.text | ours.added).items() & (theirs.text | theirs.added).items())
