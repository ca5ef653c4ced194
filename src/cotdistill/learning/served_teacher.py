"""ServedTeacher: a scoring teacher on a server, which says how likely each token of a prompt was.

    POST /completions {"prompt": [872, 198, 17], "max_tokens": 1, "prompt_logprobs": 32, ...}
    -> {"choices": [{"prompt_logprobs": [null, {"198": {"logprob": -0.2, "decoded_token": "\\n"}, ...}, ...]}]}

``prompt_logprobs`` is vLLM's; it answers with ids and what they stand for, so that a model with other tokens than the
student's is found out at the first reply. vLLM has it from its own numbers, before any temperature, and gives 20 tokens
at most unless it was started with ``--max-logprobs``.
"""

import sys
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from cotdistill.engines.attempts import Attempts
from cotdistill.engines.background import Background
from cotdistill.engines.endpoint import Endpoint, Tickets
from cotdistill.engines.model_list import list_models
from cotdistill.engines.server import Server
from cotdistill.engines.server_reply import Again, Refused, failure, said
from cotdistill.errors import ServerAway, SetupError
from cotdistill.example import Example, answer_tokens
from cotdistill.learning.relation import tokens_of
from cotdistill.learning.teacher_scores import UNNAMED, Scores
from cotdistill.shown import one_line

PROBE = "Ann has 12 apples and buys 7 more. 12 + 7 = 19."
ASKED = "on_policy and offline_kd need a server that gives prompt_logprobs, as vLLM's does"
TOKEN_BYTES = 128
"""Bytes that a server may write for each of the likeliest tokens of a place."""


class _Token(msgspec.Struct):
    logprob: float
    decoded_token: str | None = None


_Place = dict[int, _Token]


class _Choice(msgspec.Struct):
    prompt_logprobs: list[_Place | None] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


class ServedTeacher:
    """As ``teacher_scores.LoadedTeacher``, for a ``model`` on a server. ``tokenizer`` is the student's. Failed
    requests are made again as those for text are."""

    def __init__(self, model: str, server: Server, tokenizer: Any, k: int, *, pause: float = 1.0) -> None:
        tokens = tokens_of(tokenizer)
        self.readable = frozenset((tokens.text | tokens.added).values())
        self._alike: dict[tuple[int, str], bool] = {}
        self._model, self._server, self._tokenizer, self._pause = model, server, tokenizer, pause
        self._k = min(k, len(self.readable))
        self._attempts = Attempts(server, pause=pause)
        self._background = Background()
        self._tickets: Tickets | None = None
        weakref.finalize(self, self._background.stop)
        self.context = sys.maxsize  # until the server was asked; one that does not say refuses what is too much
        self.at_once = 4 * server.concurrency * len(server.urls)

    def check(self) -> None:
        """Learn the shortest ``context`` of its addresses. Raises ``SetupError`` where the server, at any of them,
        gives no probabilities or its model has other tokens, ``ServerAway`` where it does not answer."""
        ids = self._tokenizer(PROBE, add_special_tokens=False).input_ids
        for url in self._server.urls:
            one = msgspec.structs.replace(self._server, base_url=url, retries=min(self._server.retries, 1))
            teacher = ServedTeacher(self._model, one, self._tokenizer, self._k, pause=self._pause)
            try:
                teacher.score([Example("probe", "probe", ids, 1)])
            except ServerAway as error:
                why = str(error.__cause__)
                raise ServerAway(f"{why}; is the server running, and its address right, up to /v1?") from error
            longest = teacher._background.submit(teacher._longest()).result()
            self.context = min(self.context, longest or self.context)

    def score(self, rows: Sequence[Example]) -> list[Scores]:
        """Scores of each row, in their order. Raises ``SetupError`` where the server does not give them, and
        ``ServerAway`` where it does not answer."""
        if self._tickets is None:
            self._tickets = self._background.submit(self._attempts.tickets(self._background)).result()
        asked = [self._background.submit(self._scores(self._tickets, row)) for row in rows]
        try:
            return [one.result() for one in asked]
        except Again as error:
            raise ServerAway(f"{error}; when the server is well again, the same command goes on") from error
        except Refused as error:
            longest = max(len(row.input_ids) for row in rows)
            raise SetupError(
                f"{error}; {ASKED}, started with --max-logprobs {self._k} or more, and a --max-model-len of more than "
                f"{longest}"
            ) from error
        finally:
            for one in asked:
                one.cancel()

    async def _longest(self) -> int | None:
        """Tokens that may be sent to its one address: the context, less the one that it is asked to write."""
        [endpoint] = await self._attempts.connect(self._background)
        context = (await list_models(endpoint)).get(self._model)
        return context - 1 if context else None

    async def _scores(self, tickets: Tickets, row: Example) -> Scores:
        return await self._attempts.get(tickets, partial(self._exchange, row))

    async def _exchange(self, row: Example, endpoint: Endpoint) -> Scores:
        question = msgspec.json.encode({
            "model": self._model, "prompt": row.input_ids, "max_tokens": 1, "temperature": 0.0,
            "prompt_logprobs": self._k, "stream": False,
        })  # fmt: skip
        most = (len(row.input_ids) + 1) * (self._k + 1) * TOKEN_BYTES
        got = await endpoint.send("POST", "/completions", question, timeout=self._server.timeout, most=most)
        if got.status != 200:
            raise failure(got.status, got.headers, got.body, self._attempts.hide)
        places = self._places(got.body)
        if places is None:
            raise SetupError(f"it gives no probabilities of what it reads; {ASKED}")
        if len(places) != len(row.input_ids):
            raise SetupError(f"it read {len(places)} tokens where {len(row.input_ids)} were sent; {ASKED}")
        self._refuse_others(row.input_ids, places)
        return self._likeliest(places[len(places) - answer_tokens(row) :])

    def _places(self, body: bytes) -> list[_Place] | None:
        try:
            choices = msgspec.json.decode(body, type=_Answer).choices
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            why = said(body, self._attempts.hide)
            raise Again(f"the reply is not what it should be ({error}): {why}") from None
        if not choices:
            raise Again(f"the reply holds no answer: {said(body, self._attempts.hide)}")
        given = choices[0].prompt_logprobs
        return None if given is None else [place or {} for place in given]

    def _refuse_others(self, ids: Sequence[int], places: Sequence[_Place]) -> None:
        """Ids that the student sent must stand for the same in the teacher."""
        named = {index: places[at][index].decoded_token for at, index in enumerate(ids) if index in places[at]}
        if not any(named.values()):
            raise SetupError(f"it does not say what its tokens stand for; {ASKED}")
        for index, theirs in named.items():
            if not self._means_the_same(index, theirs):
                ours = one_line(self._tokenizer.decode([index]))
                other = one_line(self._attempts.hide(theirs or ""))[:40]
                raise SetupError(
                    f"token {index} is {other!r} to the teacher and {ours!r} to the student: a loss on tokens needs a "
                    "teacher with the student's; use sft"
                )

    def _means_the_same(self, index: int, theirs: str | None) -> bool:
        """A part of a character stands for nothing alone: a server says nothing, or the whole character at its end."""
        key = index, theirs or ""
        if key not in self._alike:
            ours = str(self._tokenizer.decode([index]))
            part = "\ufffd" in ours
            self._alike[key] = index in self.readable and (part or ours.strip() == key[1].strip())
        return self._alike[key]

    def _likeliest(self, places: Sequence[_Place]) -> Scores:
        ids = torch.zeros(len(places), self._k, dtype=torch.int32)
        values = torch.full((len(places), self._k), UNNAMED, dtype=torch.float16)
        for at, place in enumerate(places):
            if len(place) < self._k:
                raise SetupError(f"it names {len(place)} tokens where {self._k} were asked for; lower --top_k")
            shared = [index for index, token in place.items() if self._means_the_same(index, token.decoded_token)]
            likeliest = sorted(shared, key=lambda index: -place[index].logprob)[: self._k]
            for column, index in enumerate(likeliest):
                ids[at, column] = index
                values[at, column] = max(place[index].logprob, UNNAMED)
        return Scores(ids, values)
