"""Ask any OpenAI-compatible server: vLLM, SGLang, llama-server, Ollama, DeepSeek, OpenAI.

Only parameters that nearly all of them know are sent (see ``dialect``), so what a server is started with can still
change how it samples; vLLM takes penalties from the model's generation config unless it runs with
``--generation-config vllm``.

Every sample of a question is a request of its own with a seed of its own, so that it can fail, be written down and be
asked again alone. The parameter ``n`` would ask for all at once, and gain little: vLLM, SGLang and llama-server keep
the computed prompt for the next request, providers charge less for a prompt they have cached, and some servers take
``n`` for 1 without a word. The batch interfaces of providers, which answer within a day, are not used.
"""

import asyncio
import gc
import itertools
import logging
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from importlib.metadata import version
from typing import Any

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cotdistill.engines import Completion, Request, Sampling
from cotdistill.engines.api_key import key_for
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
    """At most ``server.concurrency`` requests are in flight at each address, and fewer where that is too much for it
    (see ``endpoint``); as many again wait for their turn.

    A request that fails is tried again after a pause that doubles and is drawn at random, from ``pause`` to
    ``longest_pause`` seconds. Opening asks each address for its list of models: raises ``SetupError`` where the
    model is not on it, the key is refused or nobody answers.
    """

    def __init__(self, model: str, server: Server, *, pause: float = 1.0, longest_pause: float = 60.0) -> None:
        self._model = model
        self._server = server
        self._key = key_for(server)
        self._pause, self._longest_pause = pause, longest_pause
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
            tickets = background.submit(self._tickets(background)).result()
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

    async def _connect(self, background: Background) -> list[Endpoint]:
        """Connections belong to the event loop they are made in, and are closed with it."""
        authorization = {"Authorization": self._key.header()} if self._key else {}
        # Uncompressed: a small reply must not unfold into one that fills the memory.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **authorization}
        endpoints = [Endpoint(url, headers, self._server.concurrency) for url in self._server.urls]
        for endpoint in endpoints:
            background.at_end(endpoint.close)
        return endpoints

    async def _tickets(self, background: Background) -> Tickets:
        return Tickets(await self._connect(background))

    async def _is_listed(self, background: Background) -> bool:
        """Whether every address lists the model. Raises ``SetupError`` where a list lacks it."""
        everywhere = True
        for endpoint in await self._connect(background):
            names = await list_models(endpoint)
            if names and not is_listed(self._model, names):
                some = one_line(self._hide(", ".join(sorted(names)[:10])))
                raise SetupError(f"{endpoint.url} has no model {self._model!r}; it has {some}")
            everywhere = everywhere and bool(names)
        return everywhere

    async def _ask(self, tickets: Tickets, request: Request, sampling: Sampling) -> Completion:
        """A request and, where it fails, the same again; each time at whichever endpoint is free."""
        try:
            try:
                reply = await self._try(tickets, request, sampling)
            except Again as error:  # only now: what tenacity makes for a request is left to the garbage collector
                reply = await self._again(error, tickets, request, sampling)
        except (Again, Refused) as error:
            return Completion(request.key, "", "error", 0, 0, 0.0, str(error))
        return Completion(
            key=request.key,
            text=reply.text,
            finish=reply.finish,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=0.0,
            thinking=reply.thinking,
        )

    async def _again(self, failure: Again, tickets: Tickets, request: Request, sampling: Sampling) -> Reply:
        failures = [failure]

        async def attempt() -> Reply:
            if failures:  # the first attempt has been made
                raise failures.pop()
            return await self._try(tickets, request, sampling)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._server.retries + 1),
            wait=wait_random_exponential(multiplier=self._pause, max=self._longest_pause, min=self._pause / 2),
            retry=retry_if_exception_type(Again),
            reraise=True,
        )
        return await retrying(attempt)

    async def _try(self, tickets: Tickets, request: Request, sampling: Sampling) -> Reply:
        async with tickets.one() as endpoint:
            started = asyncio.get_running_loop().time()
            try:
                reply = self._checked(await self._exchange(endpoint, request, sampling))
            except Again as error:
                endpoint.failed(error, started, pause=self._pause, longest_pause=self._longest_pause)
                raise Again(f"{endpoint.url}: {error}") from None
            except (Refused, SetupError) as error:
                raise type(error)(f"{endpoint.url}: {error}") from None
            endpoint.answered()
            return reply

    async def _exchange(self, endpoint: Endpoint, request: Request, sampling: Sampling) -> Reply:
        while True:
            sent = self._dialect
            body = self._body(request, sampling)
            got = await endpoint.send("POST", "/chat/completions", body, timeout=self._server.timeout)
            # Of the requests that are refused together the first one learns; the others find that it did.
            if got.status != 400 or (sent == self._dialect and not self._learnt(got.body)):
                return read_reply(got.status, got.headers, got.body, self._hide)

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
        return msgspec.json.encode({name: value for name, value in body.items() if name not in self._dialect.without})

    def _checked(self, reply: Reply) -> Reply:
        """The reply, without the key in it. Raises ``SetupError`` where another model than before wrote it."""
        served = one_line(self._hide(reply.model))
        if served and not self._served:
            # A name on a list may stand for another, as an alias does; one on no list must come back in the answer.
            if not self._listed and not _same_model(self._model, served):
                raise SetupError(f"it answers as {served!r} and not as {self._model!r}; give the name it goes by")
            self._served = served
        elif served and served != self._served:
            raise SetupError(f"it answers as {served!r}, before as {self._served!r}; ask for one by its full name")
        if self._key is None:
            return reply
        thinking = self._key.hide_in_answer(reply.thinking) if reply.thinking else None
        return msgspec.structs.replace(reply, text=self._key.hide_in_answer(reply.text), thinking=thinking)

    def _hide(self, text: str) -> str:
        return self._key.hide(text) if self._key else text


def _result(future: Future[Completion]) -> Completion:
    try:
        return future.result()
    except CancelledError:
        raise SetupError("the engine was closed while it worked; the same command goes on") from None


def _same_model(asked: str, served: str) -> bool:
    """Whether one name is a longer form of the other, as "gpt-4o" of "gpt-4o-2024-08-06" or "org/m" of "m"."""
    short, long = sorted((asked.lower(), served.lower()), key=len)
    return short in long
