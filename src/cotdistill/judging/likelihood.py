"""Likelihood: how likely a student, as it is before training, finds the traces that it may be taught.

    3_likelihoods.jsonl    {"text": "4f02...", "trace_id": "q1a2#0", "nats_per_token": 0.8214, "tokens": 41}

Rows are known by what was scored, the hash of prompt and text, so that a trace which changed is scored anew. Less is
likelier: 0 nats is a text that the student would have written word for word.
"""

from array import array
from collections.abc import Iterable

import msgspec

from cotdistill.identity import digest
from cotdistill.prompt import user_text
from cotdistill.question import Question
from cotdistill.storage.keys import Keys


class Likelihood(msgspec.Struct, frozen=True):
    """``nats_per_token`` is the mean -log p of the ``tokens`` that would be trained; None where the student's context
    does not hold them."""

    text: str
    trace_id: str
    nats_per_token: float | None
    tokens: int


def text_hash(system_prompt: str, question: Question, text: str) -> str:
    """16 hex digits for what a student would read and the text that it would learn to write."""
    return digest([system_prompt, user_text(question), text])


class Likelihoods:
    """What is known of one student under one system prompt, in some 40 bytes a trace."""

    def __init__(self, system_prompt: str, rows: Iterable[Likelihood]) -> None:
        self._system_prompt = system_prompt
        self._texts, self._nats = Keys(), array("d")
        for row in rows:
            if self._texts.add(row.text) == len(self._nats):
                self._nats.append(float("inf") if row.nats_per_token is None else row.nats_per_token)

    def nats(self, question: Question, text: str) -> float:
        """Nats a token; infinitely many for a text that was not scored or does not fit."""
        place = self._texts.find(text_hash(self._system_prompt, question, text))
        return float("inf") if place is None else self._nats[place]
