"""ServedTeacher: a scoring teacher on a server, which says how likely each token of a prompt was.

    POST /completions {"prompt": [872, 198, 17], "max_tokens": 1, "prompt_logprobs": 32, ...}
    -> {"choices": [{"prompt_logprobs": [null, {"198": {"logprob": -0.2, "decoded_token": "\\n"}, ...}, ...]}]}

``prompt_logprobs`` is vLLM's; it answers with ids and what they stand for, so that a model with other tokens than the
student's is found out at the first reply. vLLM has it from its own numbers, before any temperature, and gives 20 tokens
at most unless it was started with ``--max-logprobs``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from cotdistill.engines.attempts import Attempts
from cotdistill.engines.background import Background
from cotdistill.engines.endpoint import Endpoint, Tickets
from cotdistill.engines.server import Server
from cotdistill.engines.server_reply import Again, Refused, failure, said
from cotdistill.errors import SetupError
from cotdistill.example import Example, answer_tokens
from cotdistill.learning.relation import tokens_of
from cotdistill.learning.teacher_scores import Scores

NOWHERE = -100.0
"""Log-probability of the tokens that fill up a place for which the server names fewer than ``k``."""
PROBE = "Ann has 12 apples and buys 7 more. 12 + 7 = 19."
ASKED = "on_policy and offline_kd need a server that gives prompt_logprobs, as vLLM's does"


class _Token(msgspec.Struct):
    logprob: float
    decoded_token: str | None = None


_Place = dict[int, _Token]


class _Choice(msgspec.Struct):
    prompt_logprobs: list[_Place | None] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class ServedTeacher:
    """As ``teacher_scores.Teacher``, for a ``model`` on a server. ``tokenizer`` is the student's. Failed requests are
    made again as those for text are."""

    def __init__(self, model: str, server: Server, tokenizer: Any, k: int, *, pause: float = 1.0) -> None:
        tokens = tokens_of(tokenizer)
        self._readable = frozenset((tokens.text | tokens.added).values())
        self._model, self._server, self._tokenizer = model, server, tokenizer
        self._k = min(k, len(self._readable))
        self._attempts = Attempts(server, pause=pause)
        self.at_once = server.concurrency * len(server.urls)

    def check(self) -> None:
        """Raise ``SetupError`` where the server gives no probabilities or its model has other tokens."""
        once = msgspec.structs.replace(self._server, retries=0)
        ids = self._tokenizer(PROBE, add_special_tokens=False).input_ids
        ServedTeacher(self._model, once, self._tokenizer, self._k).score([Example("probe", "probe", ids, 1)])

    def score(self, rows: Sequence[Example]) -> list[Scores]:
        """Scores of each row, in their order. Raises ``SetupError`` where the server does not give them."""
        with Background() as background:
            tickets = background.submit(self._attempts.tickets(background)).result()
            asked = [background.submit(self._scores(tickets, row)) for row in rows]
            try:
                return [one.result() for one in asked]
            except Again as error:
                raise SetupError(f"{error}; when the server is well again, the same command goes on") from error
            except Refused as error:
                raise SetupError(
                    f"{error}; {ASKED}, started with --max-logprobs {self._k} or more and room for the longest row"
                ) from error

    async def _scores(self, tickets: Tickets, row: Example) -> Scores:
        return await self._attempts.get(tickets, partial(self._exchange, row))

    async def _exchange(self, row: Example, endpoint: Endpoint) -> Scores:
        question = msgspec.json.encode({
            "model": self._model, "prompt": row.input_ids, "max_tokens": 1, "temperature": 0.0,
            "prompt_logprobs": self._k, "stream": False,
        })  # fmt: skip
        got = await endpoint.send("POST", "/completions", question, timeout=self._server.timeout)
        if got.status != 200:
            raise failure(got.status, got.headers, got.body, self._attempts.hide)
        try:
            choice = msgspec.json.decode(got.body, type=_Answer).choices[0]
        except (msgspec.MsgspecError, ValueError, RecursionError, IndexError) as error:
            body = said(got.body, self._attempts.hide)
            raise Again(f"the reply is not what it should be ({error}): {body}") from None
        if choice.prompt_logprobs is None:
            raise SetupError(f"it gives no probabilities of what it reads; {ASKED}")
        if len(choice.prompt_logprobs) != len(row.input_ids):
            raise SetupError(
                f"it read {len(choice.prompt_logprobs)} tokens where {len(row.input_ids)} were sent; {ASKED}"
            )
        places = [place or {} for place in choice.prompt_logprobs]
        self._refuse_others(row.input_ids, places)
        return self._likeliest(places[len(places) - answer_tokens(row) :])

    def _refuse_others(self, ids: Sequence[int], places: Sequence[_Place]) -> None:
        """Ids stand for the same in teacher and student. What is a part of a character stands for nothing alone."""
        said = {index: places[at][index].decoded_token for at, index in enumerate(ids) if index in places[at]}
        ours = {index: self._tokenizer.decode([index]) for index in said}
        known = {index for index, theirs in said.items() if theirs and "\ufffd" not in theirs + ours[index]}
        others = [index for index in known if (said[index] or "").strip() != ours[index].strip()]
        if others or not known:
            why = (
                f"token {others[0]} is {said[others[0]]!r} to the teacher and {ours[others[0]]!r} to the student"
                if others else "it does not say what its tokens stand for"
            )  # fmt: skip
            raise SetupError(f"{why}: a loss on tokens needs a teacher with the student's; use sft")

    def _likeliest(self, places: Sequence[Mapping[int, _Token]]) -> Scores:
        ids = torch.empty(len(places), self._k, dtype=torch.int32)
        values = torch.full((len(places), self._k), NOWHERE, dtype=torch.float16)
        for at, place in enumerate(places):
            known = sorted(self._readable & place.keys(), key=lambda index: -place[index].logprob)[: self._k]
            for column, index in enumerate(known):
                values[at, column] = max(place[index].logprob, NOWHERE)
            unnamed = (index for index in self._readable if index not in place)
            known += [next(unnamed) for _ in range(self._k - len(known))]
            ids[at] = torch.tensor(known, dtype=torch.int32)
        return Scores(ids, values)
