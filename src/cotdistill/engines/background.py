"""Background: an event loop in a thread of its own, for coroutines that serve a caller who waits."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds that stopping may take; then the thread, a daemon, is left behind."""


class Background:
    """``with Background() as background: background.submit(work())``; nothing is left running at the end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cotdistill-http", daemon=True)
        self._thread.start()
        self._last: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; its result, or the exception it ended with, is in the future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def at_end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Something to be closed when nothing else runs any more."""
        self._last.append(close)

    def stop(self) -> None:
        """Cancel whatever still runs and end the thread. Safe to call twice."""
        if self._loop.is_closed() or not self._loop.is_running():
            return
        self.submit(self._end())
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for close in self._last:
            await close()
        await self._loop.shutdown_asyncgens()
        self._loop.stop()
