"""Clock: the time that passed, shared out among completions that were computed side by side."""

import time

import msgspec

from cotdistill.engines import Completion


class Clock:
    """Each completion gets the seconds since the one before it, so that their sum is the time that passed."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def stamp(self, completion: Completion) -> Completion:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return msgspec.structs.replace(completion, seconds=seconds)
