"""Ray worker: an engine in a process of its own on a cluster, and the driver's hold on it.

    worker = RayWorker(open_inner, cpus=4, gpus=0)     # opening on some node
    worker.give(batch, sampling)                       # when it is ready
    worker.take()                                      # the next completion, when ``waits_for`` is ready

A worker that dies is not restarted by Ray: the driver starts another, which may find its place on another node, and
gives it work only when its model is open. So no batch waits for a node that does not come back.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cotdistill import __version__
from cotdistill.engines import Completion, Engine, Request, Sampling
from cotdistill.errors import CotdistillError, SetupError

OpenEngine = Callable[[], Engine]


class Actor:
    """What runs on the cluster. One call at a time, the first one to ``open``."""

    def __init__(self, open_inner: OpenEngine) -> None:
        self._open_inner = open_inner

    def open(self) -> dict[str, str]:
        """The engine's description and the version of this package on that node. Not in ``__init__``, of whose errors
        Ray passes on only the text."""
        self._engine = self._open_inner()
        return {**self._engine.describe(), "cotdistill": __version__}

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        # Not ``yield from``: Ray sends values into this generator, which not every iterator takes.
        for completion in self._engine.complete(requests, sampling):  # noqa: UP028
            yield completion

    def close(self) -> None:
        self._engine.close()


class Died(Exception):
    """The process of a worker ended, or its engine raised what it should not; says why in a sentence."""


class RayWorker:
    """One place for an actor. ``left`` are the requests of its batch that are not completed, by key; ``failures`` the
    actors in a row that ended before their engine was open."""

    def __init__(self, open_inner: OpenEngine, *, cpus: int, gpus: int) -> None:
        import ray

        self._ray: Any = ray
        self._open_inner = open_inner
        self._class: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Actor)
        self.left: dict[str, Request] = {}
        self.ready = False
        self.failures = 0
        self.start()

    def start(self) -> None:
        """A new actor, in the place of one that is gone; it is being opened."""
        self.ready, self.left = False, {}
        self._actor: Any = self._class.remote(self._open_inner)
        self.waits_for: Any = self._actor.open.remote()

    def opened(self) -> dict[str, str]:
        """The description, when the engine is open; raises ``Died``, or the ``CotdistillError`` it could not be opened
        for."""
        try:
            said: dict[str, str] = self._get(self.waits_for)
        except Died as error:
            if isinstance(cause := error.__cause__, CotdistillError):
                raise type(cause)(str(cause)) from None
            raise
        self.ready, self.failures, self.waits_for = True, 0, None
        return said

    def give(self, batch: Sequence[Request], sampling: Sampling) -> None:
        self.left = {request.key: request for request in batch}
        self.waits_for = self._actor.complete.options(num_returns="streaming").remote(list(batch), sampling)

    def take(self) -> Completion | None:
        """A completion of something that is owed; None where there is nothing new. Raises ``Died``."""
        try:
            completion: Completion = self._get(next(self.waits_for))
        except StopIteration:
            self.waits_for = None
            if self.left:
                raise Died(f"its engine gave no answer to {len(self.left)} requests") from None
            return None
        return completion if self.left.pop(completion.key, None) else None

    def closing(self) -> Any:
        """Ask for the engine to be closed; returns what to wait for. Only for a worker that has nothing to do."""
        return self._actor.close.remote()

    def kill(self) -> None:
        self.ready, self.waits_for, self.left = False, None, {}
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)

    def _get(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise Died(_sentence(error.cause)) from error.cause
        except errors.RayActorError:
            raise Died("its process or its node ended") from None
        except errors.RayError as error:
            raise Died(_sentence(error)) from None


def same(first: dict[str, str], other: dict[str, str]) -> None:
    """Raises ``SetupError`` where two workers, or a worker and this process, do not run the same."""
    if differing := sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key)):
        what = "; ".join(f"{key}: {first.get(key)} and {other.get(key)}" for key in differing)
        raise SetupError(f"the nodes of the cluster differ ({what}); give all of them the same files and packages")


def _sentence(error: BaseException) -> str:
    """``OutOfMemoryError: CUDA out of memory``."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:200]}"
