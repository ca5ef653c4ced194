"""Endpoint: one address of a server, how much it can take, and whose turn it is among several.

A ticket is the right to have one request in flight at one endpoint. A request takes whichever ticket is free first,
so that a faster endpoint gets more to do, and the tickets of one that is busy or away stay put until it has rested.

How many tickets an endpoint has follows the rule by which TCP shares a line (additive increase, multiplicative
decrease: Chiu and Jain 1989; congestion avoidance of RFC 5681). It begins with as many as the settings allow; half of
them are withdrawn when it says that it is too busy or answers too late, once for all the requests that were in flight
then, and one comes back with every full round of answers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec

from cotdistill.engines.server import is_loopback
from cotdistill.engines.server_reply import Again, Refused

LARGEST_REPLY = 16 << 20
"""Bytes. No text within any token limit is as long; a server that goes on must not fill the memory."""

PATIENCE_TO_CONNECT = 20.0
"""Seconds."""

PACE = 0.003
"""Seconds between the first requests to an endpoint. Sent all at once, their answers come all at once, and each waits
until the event loop is through with those before it."""


class Reception(msgspec.Struct, frozen=True):
    """A reply as it came in, uncompressed."""

    status: int
    headers: httpx.Headers
    body: bytes


class Endpoint:
    """One address with its connections. To be made and used in one event loop.

    ``limit`` is how many requests it can take at a time, as far as is known; ``tickets`` how many there are of it.
    """

    def __init__(self, url: str, headers: dict[str, str], concurrency: int) -> None:
        self.url = url
        self.limit = float(concurrency)
        self.tickets = 0
        self._concurrency = concurrency
        self._eased = self._rests_until = 0.0
        self._failures = 0
        self._headers = headers
        self._encryption = httpx.create_ssl_context()
        self._all: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []

    def _connection(self) -> httpx.AsyncClient:
        """A client with one connection, the one that was used last if any is free. A pool of httpx looks at all of its
        connections for each request: with 64 of them, that is half of the processor time of a request."""
        if self._idle:
            return self._idle.pop()
        client = httpx.AsyncClient(
            headers=self._headers,
            verify=self._encryption,
            limits=httpx.Limits(max_connections=1),
            timeout=httpx.Timeout(None, connect=PATIENCE_TO_CONNECT),
            trust_env=not is_loopback(self.url),  # a proxy of the environment is meant for other hosts than this one
        )
        self._all.append(client)
        return client

    async def send(
        self, method: str, path: str, content: bytes = b"", *, timeout: float, most: int | None = None
    ) -> Reception:
        """Make a request; the whole reply within ``timeout`` seconds, however slowly it drips.

        Raises ``Again`` where none came, ``Refused`` for one longer than ``LARGEST_REPLY`` and than ``most`` bytes.
        """
        largest = max(LARGEST_REPLY, most or 0)
        client = self._connection()
        try:
            async with (
                asyncio.timeout(timeout),
                client.stream(method, f"{self.url}{path}", content=content) as reply,
            ):
                body = bytearray()
                async for chunk in reply.aiter_raw():
                    body += chunk
                    if len(body) > largest:
                        raise Refused(f"the reply is longer than {largest >> 20} MiB")
                return Reception(reply.status_code, reply.headers, bytes(body))
        except TimeoutError:
            raise Again(f"no whole answer within {timeout:g} s", busy=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Again(f"cannot be reached ({str(error) or type(error).__name__})", away=True) from None
        except (httpx.HTTPError, OSError) as error:
            raise Again(f"the connection broke ({str(error) or type(error).__name__})") from None
        finally:
            self._idle.append(client)

    def answered(self) -> None:
        """An answer came: a little more may be asked of it."""
        self._failures = 0
        self.limit = min(float(self._concurrency), self.limit + 1 / self.limit)

    def failed(self, failure: Again, started: float, *, pause: float, longest_pause: float) -> None:
        """None came for a request ``started`` then, in the event loop's time: less is asked of it from now on. It
        rests for as long as it asked, and for longer and longer where it is away or one request is too much for it."""
        now = asyncio.get_running_loop().time()
        if failure.wait is not None:
            self._rests_until = max(self._rests_until, now + failure.wait)
        if not (failure.busy or failure.away) or started < self._eased:
            return  # of the requests that were in flight together, one counts
        if failure.wait is None and (failure.away or self.limit < 2):
            rest = min(pause * 2.0 ** min(self._failures, 30), longest_pause)
            self._rests_until = max(self._rests_until, now + rest)
            self._failures += 1
        self.limit = max(1.0, self.limit / 2)
        self._eased = now

    def rest(self) -> float:
        """Seconds until it may be asked again; 0 or less where it may be now."""
        return self._rests_until - asyncio.get_running_loop().time()

    async def close(self) -> None:
        for client in self._all:
            await client.aclose()


class Tickets:
    """All tickets of all endpoints, in one queue. To be made and used in one event loop."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._free: asyncio.Queue[Endpoint] = asyncio.Queue()
        for endpoint in endpoints:
            for number in range(int(endpoint.limit)):
                endpoint.tickets += 1
                asyncio.get_running_loop().call_later(number * PACE, self._free.put_nowait, endpoint)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Endpoint]:
        """Wait for a ticket of an endpoint that is not resting, and give it back at the end."""
        while True:
            endpoint = await self._free.get()
            if endpoint.tickets > int(endpoint.limit):
                endpoint.tickets -= 1
            elif (rest := endpoint.rest()) > 0:
                asyncio.get_running_loop().call_later(rest, self._free.put_nowait, endpoint)
            else:
                break
        try:
            yield endpoint
        finally:
            endpoint.tickets -= 1
            while endpoint.tickets < int(endpoint.limit):
                self._issue(endpoint)

    def _issue(self, endpoint: Endpoint) -> None:
        endpoint.tickets += 1
        self._free.put_nowait(endpoint)
