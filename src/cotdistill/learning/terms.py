"""Terms: what an optimizer step minimises, term by term, each a sum of nats with its own count of tokens.

    step_by_step    label 3.1 nats over 24 tokens, rationale 88.0 over 410    ->    0.5 * 3.1 / 24 + 0.5 * 88.0 / 410

The trainer adds up the sums of a step's micro-batches; ``weights`` turn them into means of the whole step. The losses
themselves are in ``objectives.py``.
"""

from collections.abc import Sequence
from typing import Any

import torch

from cotdistill.example import Example, answer_tokens
from cotdistill.learning.layout import ordered
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.teacher_scores import UNNAMED, Scores, ScoresOf, together
from cotdistill.objectives import generalised_jsd, kl, log_probs, nll, per_token, with_rest


class Terms:
    """``sft``: one term, the answer tokens' negative log-likelihood. The others are made from it."""

    names: tuple[str, ...] = ("nll",)

    def __init__(self, loss: AnswerLoss, module: Any) -> None:
        self._loss = loss
        self._module = module

    def groups(self, rows: Sequence[Example]) -> list[list[Example]]:
        """The rows that are computed at a time."""
        return self._loss.groups(rows)

    def rows(self, rows: Sequence[Example], step: int) -> list[Example]:
        """The rows that optimizer step ``step`` trains in place of these, just as many."""
        return list(rows)

    def counts(self, rows: Sequence[Example]) -> list[int]:
        """Tokens of each term."""
        return [_tokens(rows)]

    def sums(self, model: Any, rows: Sequence[Example]) -> torch.Tensor:
        """Nats of each term (terms), with a gradient; ``model`` as for ``AnswerLoss``."""
        return self._loss(model, rows)[None]

    def weights(self, counts: torch.Tensor) -> torch.Tensor:
        """The factor of each term (terms), from the counts of all rows of the step."""
        return per_token(counts, torch.ones_like(counts, dtype=torch.float32))


class StepByStep(Terms):
    """Hsieh et al. 2023: the answer alone and the reasoning are two tasks of one student."""

    names = ("label", "rationale")

    def __init__(self, loss: AnswerLoss, module: Any, *, alpha: float) -> None:
        super().__init__(loss, module)
        self._shares = (alpha, 1 - alpha)

    def counts(self, rows: Sequence[Example]) -> list[int]:
        label = _tokens(row for row in rows if row.task == "label")
        return [label, _tokens(rows) - label]

    def sums(self, model: Any, rows: Sequence[Example]) -> torch.Tensor:
        rows = ordered(rows)
        values = self._loss.tokens(model, rows)
        return apart(values, [row.task == "label" for row in rows], rows)

    def weights(self, counts: torch.Tensor) -> torch.Tensor:
        return per_token(counts, torch.tensor(self._shares, device=counts.device))


class OfflineKd(Terms):
    """The traces' tokens and, at each of them, the teacher's stored distribution over what might come next."""

    names = ("nll", "kl")

    def __init__(self, loss: AnswerLoss, module: Any, *, scores: ScoresOf, weight: float) -> None:
        super().__init__(loss, module)
        self._scores = scores
        self._shares = (1 - weight, weight)

    def counts(self, rows: Sequence[Example]) -> list[int]:
        return [_tokens(rows)] * 2

    def sums(self, model: Any, rows: Sequence[Example]) -> torch.Tensor:
        rows = ordered(rows)
        scores = together([self._scores(row) for row in rows if answer_tokens(row)])

        def term(logits: torch.Tensor, targets: torch.Tensor, here: slice) -> torch.Tensor:
            return torch.stack([nll(logits, targets), kl(*_both(logits, scores, here))], dim=1)

        return self._loss.each(model, rows, term, 2).sum(dim=0)

    def weights(self, counts: torch.Tensor) -> torch.Tensor:
        return per_token(counts, torch.tensor(self._shares, device=counts.device))


def divergences(
    loss: AnswerLoss, model: Any, rows: Sequence[Example], scores: Scores, beta: float
) -> torch.Tensor:
    """The generalised JSD at each answer token (n) of ``ordered`` rows; ``scores`` are the teacher's of these rows."""

    def term(logits: torch.Tensor, targets: torch.Tensor, here: slice) -> torch.Tensor:
        return generalised_jsd(*_both(logits, scores, here), beta)[:, None]

    return loss.each(model, rows, term, 1)[:, 0]


def _both(logits: torch.Tensor, scores: Scores, here: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n, k + 1), the teacher's and the student's, of the tokens that the teacher names ``here`` and
    of all others."""
    ids = scores.ids[here].to(logits.device, torch.long)
    teacher = scores.log_probs[here].to(logits.device, torch.float32)
    student = log_probs(logits, ids).masked_fill(teacher <= UNNAMED, UNNAMED)
    return with_rest(teacher), with_rest(student)


def apart(values: torch.Tensor, first: Sequence[bool], rows: Sequence[Example]) -> torch.Tensor:
    """Two sums (2): of the values of all tokens of the rows that are ``first``, and of those of the other rows."""
    lengths = torch.tensor([answer_tokens(row) for row in rows])
    chosen = torch.tensor(first).repeat_interleave(lengths).to(values.device)
    return torch.stack([values[chosen].sum(), values[~chosen].sum()])


def _tokens(rows: Any) -> int:
    return sum(map(answer_tokens, rows))
