"""ByPrompt: the order in which samples of the same questions are asked, so that each prompt is computed once.

    slots 2, two questions with three samples each:   slot 0: q1#0 q1#1 q1#2      slot 1: q2#0 q2#1 q2#2

A slot that has just answered a prompt still holds its keys and values: the next sample of that question goes there.
"""

from collections import deque
from collections.abc import Iterable

from cotdistill.engines import Message, Request

AHEAD = 32
"""Requests that are read ahead for each slot, at most, to find a prompt that no other slot computes."""


class ByPrompt:
    """The requests of an iterable, given out one by one, and read no further than that needs."""

    def __init__(self, requests: Iterable[Request], slots: int) -> None:
        self._more = iter(requests)
        self._most = AHEAD * slots
        self._waiting: dict[tuple[Message, ...], deque[Request]] = {}
        self._count = 0
        self._running: dict[tuple[Message, ...], int] = {}

    def next(self) -> Request | None:
        """The next request to ask: of a prompt that nobody computes now, if there is one; None at the end."""
        prompt = next((one for one in self._waiting if one not in self._running), None)
        while prompt is None and self._count < self._most and (request := next(self._more, None)) is not None:
            self._waiting.setdefault(request.messages, deque()).append(request)
            self._count += 1
            prompt = request.messages if request.messages not in self._running else None
        if not self._waiting:
            return None
        # All that is left are further samples of what is being computed: first of the question with most of them.
        return self._take(prompt or max(self._waiting, key=lambda one: len(self._waiting[one])))

    def after(self, done: Request) -> Request | None:
        """The next request, once ``done`` has been answered: the next sample of the same prompt, if there is one."""
        left = self._running.pop(done.messages) - 1
        if left:
            self._running[done.messages] = left
        return self._take(done.messages) if done.messages in self._waiting else self.next()

    def _take(self, prompt: tuple[Message, ...]) -> Request:
        queue = self._waiting[prompt]
        request = queue.popleft()
        if not queue:
            del self._waiting[prompt]
        self._count -= 1
        self._running[prompt] = self._running.get(prompt, 0) + 1
        return request
