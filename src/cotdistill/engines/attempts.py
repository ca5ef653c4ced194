"""Attempts: a request to a server, made again where it fails, at whichever of its addresses is free."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cotdistill.engines.api_key import key_for
from cotdistill.engines.background import Background
from cotdistill.engines.endpoint import Endpoint, Tickets
from cotdistill.engines.server import Server
from cotdistill.engines.server_reply import Again, Refused
from cotdistill.errors import SetupError

T = TypeVar("T")
Exchange = Callable[[Endpoint], Awaitable[T]]
"""Sends a request and reads the reply. Raises ``Again``, ``Refused`` or ``SetupError`` where there is no answer."""


class Attempts:
    """At most ``server.concurrency`` requests are in flight at each address, and fewer where that is too much for it
    (see ``endpoint``). A request that fails is made again after a pause that doubles and is drawn at random, from
    ``pause`` to ``longest_pause`` seconds."""

    def __init__(self, server: Server, *, pause: float = 1.0, longest_pause: float = 60.0) -> None:
        self._server = server
        self.key = key_for(server)
        self._pause, self._longest_pause = pause, longest_pause

    def hide(self, text: str) -> str:
        """The text without the key."""
        return self.key.hide(text) if self.key else text

    async def connect(self, background: Background) -> list[Endpoint]:
        """Connections belong to the event loop they are made in, and are closed with it."""
        authorization = {"Authorization": self.key.header()} if self.key else {}
        # Uncompressed: a small reply must not unfold into one that fills the memory.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **authorization}
        endpoints = [Endpoint(url, headers, self._server.concurrency) for url in self._server.urls]
        for endpoint in endpoints:
            background.at_end(endpoint.close)
        return endpoints

    async def tickets(self, background: Background) -> Tickets:
        return Tickets(await self.connect(background))

    async def get(self, tickets: Tickets, exchange: Exchange[T]) -> T:
        """What the exchange comes to. Raises ``Again`` where the last attempt failed too."""
        try:
            return await self._try(tickets, exchange)
        except Again as error:  # only now: what tenacity makes for a request is left to the garbage collector
            return await self._again(error, tickets, exchange)

    async def _again(self, failure: Again, tickets: Tickets, exchange: Exchange[T]) -> T:
        failures = [failure]

        async def attempt() -> T:
            if failures:  # the first attempt has been made
                raise failures.pop()
            return await self._try(tickets, exchange)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._server.retries + 1),
            wait=wait_random_exponential(multiplier=self._pause, max=self._longest_pause, min=self._pause / 2),
            retry=retry_if_exception_type(Again),
            reraise=True,
        )
        return await retrying(attempt)

    async def _try(self, tickets: Tickets, exchange: Exchange[T]) -> T:
        async with tickets.one() as endpoint:
            started = asyncio.get_running_loop().time()
            try:
                answer = await exchange(endpoint)
            except Again as error:
                endpoint.failed(error, started, pause=self._pause, longest_pause=self._longest_pause)
                raise Again(f"{endpoint.url}: {error}") from None
            except (Refused, SetupError) as error:
                raise type(error)(f"{endpoint.url}: {error}") from None
            endpoint.answered()
            return answer
