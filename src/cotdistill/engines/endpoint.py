"""Endpoint: one address of a server, and whose turn it is among several.

A ticket is the right to have one request in flight at one endpoint. Each endpoint has as many tickets as requests
it may have in flight; a request takes whichever ticket is free first, so that a faster endpoint gets more to do,
and the tickets of one that is busy or away stay put until it has rested.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec

from cotdistill.engines.server_reply import Again, Refused
from cotdistill.server import is_loopback

LARGEST_REPLY = 16 << 20
"""Bytes. No answer within any token limit is as long; a server that goes on must not fill the memory."""

PATIENCE_TO_CONNECT = 20.0
"""Seconds."""


class Reception(msgspec.Struct, frozen=True):
    """A reply as it came in, uncompressed."""

    status: int
    headers: httpx.Headers
    body: bytes


class Endpoint:
    """One address with its connections. To be made and used in one event loop."""

    def __init__(self, url: str, headers: dict[str, str], concurrency: int) -> None:
        self.url = url
        self._rests_until = 0.0
        self._failures = 0
        self._http = httpx.AsyncClient(
            headers=headers,
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            timeout=httpx.Timeout(None, connect=PATIENCE_TO_CONNECT),
            trust_env=not is_loopback(url),  # a proxy of the environment is meant for other hosts than this one
        )

    async def send(self, method: str, path: str, content: bytes = b"", *, timeout: float) -> Reception:
        """Make a request; the whole reply within ``timeout`` seconds, however slowly it drips.

        Raises ``Again`` where none came, ``Refused`` for one longer than ``LARGEST_REPLY``.
        """
        try:
            async with (
                asyncio.timeout(timeout),
                self._http.stream(method, f"{self.url}{path}", content=content) as reply,
            ):
                body = bytearray()
                async for chunk in reply.aiter_raw():
                    body += chunk
                    if len(body) > LARGEST_REPLY:
                        raise Refused(f"the reply is longer than {LARGEST_REPLY >> 20} MiB")
                return Reception(reply.status_code, reply.headers, bytes(body))
        except TimeoutError:
            raise Again(f"no whole answer within {timeout:g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Again(f"cannot be reached ({str(error) or type(error).__name__})", busy=True) from None
        except (httpx.HTTPError, OSError) as error:
            raise Again(f"the connection broke ({str(error) or type(error).__name__})") from None

    def note(self, failure: Again | None, *, pause: float, longest_pause: float) -> None:
        """Remember how a request went. A busy endpoint rests for as long as it asked, or for longer and longer."""
        if failure is None or not failure.busy:
            self._failures = 0
            return
        wait = failure.wait
        if wait is None:
            if self.rest() > 0:
                return  # of the requests that were in flight together, one counts
            wait = min(pause * 2.0 ** min(self._failures, 30), longest_pause)
            self._failures += 1
        self._rests_until = max(self._rests_until, asyncio.get_running_loop().time() + wait)

    def rest(self) -> float:
        """Seconds until it may be asked again; 0 or less where it may be now."""
        return self._rests_until - asyncio.get_running_loop().time()

    async def close(self) -> None:
        await self._http.aclose()


class Tickets:
    """All tickets of all endpoints, in one queue."""

    def __init__(self, endpoints: Sequence[Endpoint], concurrency: int) -> None:
        self._free: asyncio.Queue[Endpoint] = asyncio.Queue()
        for _ in range(concurrency):
            for endpoint in endpoints:
                self._free.put_nowait(endpoint)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Endpoint]:
        """Wait for a ticket of an endpoint that is not resting, and give it back at the end."""
        while (rest := (endpoint := await self._free.get()).rest()) > 0:
            asyncio.get_running_loop().call_later(rest, self._free.put_nowait, endpoint)
        try:
            yield endpoint
        finally:
            self._free.put_nowait(endpoint)
