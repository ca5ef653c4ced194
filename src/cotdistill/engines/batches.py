"""Batches: requests cut into pieces for workers that may die.

    batches = Batches(requests, size=64, least=8, workers=2)
    while batch := batches.next():
        ...                                   # a worker completes it
        yield from batches.lost(left, why)    # or dies over it

The requests are read ahead for one batch a worker, no further. The last of them are shared out among the workers,
in batches of at least ``least``, so that the workers end together.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from cotdistill.engines import Completion, Request

ATTEMPTS = 3
"""Workers that may die over a request before it is an error row."""
PARTS = 4
"""What a worker left when it died goes into so many batches, to tell the request that kills from the others."""


class Batches:
    """Each request is in one batch at a time. What a dead worker left is handed out again before anything new."""

    def __init__(self, requests: Iterable[Request], *, size: int, least: int, workers: int) -> None:
        self._source = iter(requests)
        self._size, self._least, self._workers = size, min(least, size), workers
        self._ahead: deque[Request] = deque()
        self._again: deque[list[Request]] = deque()
        self._deaths: Counter[str] = Counter()

    def next(self) -> list[Request]:
        """A batch; empty when all requests there are have been handed out."""
        if self._again:
            return self._again.popleft()
        self._read_ahead()
        share = max(self._least, math.ceil(len(self._ahead) / self._workers))
        return [self._ahead.popleft() for _ in range(min(self._size, share, len(self._ahead)))]

    def more(self) -> bool:
        """Whether there is something to be handed out."""
        self._read_ahead()
        return bool(self._again or self._ahead)

    def lost(self, left: Sequence[Request], why: str) -> list[Completion]:
        """A worker ended without having completed ``left``. They are asked again in smaller batches; those over which
        ``ATTEMPTS`` workers have ended are returned as errors, with the reason that the last one had."""
        self._deaths.update(request.key for request in left)
        again = [request for request in left if self._deaths[request.key] < ATTEMPTS]
        part = math.ceil(len(again) / PARTS)
        self._again.extend(again[start : start + part] for start in range(0, len(again), part or 1))
        said = f"{ATTEMPTS} workers ended over this or a request beside it; the last one: {why}"
        return [
            Completion.failed(request, said) for request in left if self._deaths[request.key] >= ATTEMPTS
        ]

    def _read_ahead(self) -> None:
        while len(self._ahead) < self._size * self._workers and (request := next(self._source, None)) is not None:
            self._ahead.append(request)
