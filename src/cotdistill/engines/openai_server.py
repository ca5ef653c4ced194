"""Ask any OpenAI-compatible server: vLLM, SGLang, llama-server, Ollama, DeepSeek, OpenAI.

Only parameters that nearly all of them know are sent (see ``dialect``), and the user's ``extra_body``, so what a server
is started with can still change how it samples; vLLM takes penalties from the model's generation config unless it runs
with ``--generation-config vllm``.

Every sample of a question is a request of its own with a seed of its own, so that it can fail, be written down and be
asked again alone. The parameter ``n`` would ask for all at once, and gain little: vLLM, SGLang and llama-server keep
the computed prompt for the next request, providers charge less for a prompt they have cached, and some servers take
``n`` for 1 without a word. The batch interfaces of providers, which answer within a day, are not used.
"""

import gc
import itertools
import logging
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec

from cotdistill.engines import Completion, Request, Sampling
from cotdistill.engines.attempts import Attempts
from cotdistill.engines.background import Background
from cotdistill.engines.clock import Clock
from cotdistill.engines.dialect import Dialect
from cotdistill.engines.endpoint import Endpoint, Tickets
from cotdistill.engines.model_list import is_listed, list_models
from cotdistill.engines.server import Server
from cotdistill.engines.server_reply import Again, Refused, Reply, read_reply
from cotdistill.errors import SetupError
from cotdistill.shown import one_line

log = logging.getLogger(__name__)


class OpenAIServerEngine:
    """``Attempts`` decides how many requests are in flight and when one is made again; as many again wait their turn.

    Opening asks each address for its list of models: raises ``SetupError`` where the model is not on it, the key is
    refused or nobody answers.
    """

    def __init__(self, model: str, server: Server, *, pause: float = 1.0, longest_pause: float = 60.0) -> None:
        self._model = model
        self._server = server
        self._attempts = Attempts(server, pause=pause, longest_pause=longest_pause)
        self._dialect = Dialect()
        self._served = ""
        self._background: Background | None = None
        with Background() as background:
            self._listed = background.submit(self._is_listed(background)).result()

    def describe(self) -> dict[str, str]:
        return {
            "engine": f"OpenAI-compatible server (httpx {version('httpx')})",
            "model": self._served or self._model,
            "hash": "",
            "dtype": "",
            "base_url": ", ".join(self._server.urls),
            **({"without": ", ".join(sorted(self._dialect.without))} if self._dialect.without else {}),
        }

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Leaving the iterator early drops the requests in flight whole.

        Raises ``SetupError``, after the completions that were there, where the server refuses all work or
        ``max_failures`` requests in a row failed.
        """
        self.close()
        todo = iter(requests)
        background = self._background = Background()
        done: queue.SimpleQueue[Future[Completion]] = queue.SimpleQueue()
        clock = Clock()
        waiting = failures = 0
        # What is there already, questions and libraries, need not be searched for garbage while replies wait: each full
        # collection would hold up the event loop for as long as it takes.
        gc.collect()
        gc.freeze()
        try:
            tickets = background.submit(self._attempts.tickets(background)).result()
            most = 2 * self._server.concurrency * len(self._server.urls)
            while True:
                for request in itertools.islice(todo, most - waiting):
                    background.submit(self._ask(tickets, request, sampling)).add_done_callback(done.put)
                    waiting += 1
                if not waiting:
                    return
                completion = _result(done.get())
                waiting -= 1
                yield clock.stamp(completion)
                failures = failures + 1 if completion.finish == "error" else 0
                if failures >= self._server.max_failures:
                    raise SetupError(
                        f"stopped after {failures} failed requests in a row, the last one: {completion.error}; "
                        "when the server is well again, the same command goes on"
                    )
        finally:
            gc.unfreeze()
            background.stop()

    def close(self) -> None:
        if self._background:
            self._background.stop()
            self._background = None

    async def _is_listed(self, background: Background) -> bool:
        """Whether every address lists the model. Raises ``SetupError`` where a list lacks it."""
        everywhere = True
        for endpoint in await self._attempts.connect(background):
            names = await list_models(endpoint)
            if names and not is_listed(self._model, names):
                some = one_line(self._attempts.hide(", ".join(sorted(names)[:10])))
                raise SetupError(f"{endpoint.url} has no model {self._model!r}; it has {some}")
            everywhere = everywhere and bool(names)
        return everywhere

    async def _ask(self, tickets: Tickets, request: Request, sampling: Sampling) -> Completion:
        try:
            reply = await self._attempts.get(tickets, partial(self._exchange, request, sampling))
        except (Again, Refused) as error:
            return Completion.failed(request, str(error))
        return Completion(
            key=request.key,
            text=reply.text,
            finish=reply.finish,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=0.0,
            thinking=reply.thinking,
        )

    async def _exchange(self, request: Request, sampling: Sampling, endpoint: Endpoint) -> Reply:
        while True:
            sent = self._dialect
            body = self._body(request, sampling)
            got = await endpoint.send("POST", "/chat/completions", body, timeout=self._server.timeout)
            # Of the requests that are refused together the first one learns; the others find that it did.
            if got.status != 400 or (sent == self._dialect and not self._learnt(got.body)):
                return self._checked(read_reply(got.status, got.headers, got.body, self._attempts.hide))

    def _learnt(self, refusal: bytes) -> bool:
        """Whether it names a setting that the model knows by another name or not at all; from then on that holds."""
        self._dialect, before = self._dialect.after(refusal), self._dialect
        for name in sorted(self._dialect.without - before.without):
            log.warning("%s takes no %s: it answers as its server has it", self._model, name)
        return self._dialect != before

    def _body(self, request: Request, sampling: Sampling) -> bytes:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": request.messages,
            self._dialect.limit: sampling.max_new_tokens,
            "temperature": sampling.temperature if sampling.do_sample else 0.0,
            "top_p": sampling.top_p,
            "stream": False,
        }
        body |= {"seed": sampling.seed_of(request)} if sampling.do_sample else {}
        taken = {name: value for name, value in body.items() if name not in self._dialect.without}
        # What the user adds is never left out: a server that does not take it says so.
        return msgspec.json.encode({**taken, **(self._server.extra_body or {})})

    def _checked(self, reply: Reply) -> Reply:
        """The reply, without the key in it. Raises ``SetupError`` where another model than before wrote it."""
        served = one_line(self._attempts.hide(reply.model))
        if served and not self._served:
            # A name on a list may stand for another, as an alias does; one on no list must come back in the answer.
            if not self._listed and not _same_model(self._model, served):
                raise SetupError(f"it answers as {served!r} and not as {self._model!r}; give the name it goes by")
            self._served = served
        elif served and served != self._served:
            raise SetupError(f"it answers as {served!r}, before as {self._served!r}; ask for one by its full name")
        key = self._attempts.key
        if key is None:
            return reply
        thinking = key.hide_in_answer(reply.thinking) if reply.thinking else None
        return msgspec.structs.replace(reply, text=key.hide_in_answer(reply.text), thinking=thinking)


def _result(future: Future[Completion]) -> Completion:
    try:
        return future.result()
    except CancelledError:
        raise SetupError("the engine was closed while it worked; the same command goes on") from None


def _same_model(asked: str, served: str) -> bool:
    """Whether one name is a longer form of the other, as "gpt-4o" of "gpt-4o-2024-08-06" or "org/m" of "m"."""
    short, long = sorted((asked.lower(), served.lower()), key=len)
    return short in long
