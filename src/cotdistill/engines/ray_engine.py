"""Run another engine on many processes of a Ray cluster; what they write comes back to this one as it is written.

Why actors of our own and not ``ray.data``: a data set wants all its rows before it begins, while requests may depend
on answers (sampling stops when a question has enough); its actors live as long as one data set, while an engine is
asked several times; it hands on whole blocks, while here each answer is in the journal as soon as it is there; and a
batch that kills its worker is there tried for ever, or dropped together with those that wait behind it.
"""

import logging
from collections.abc import Iterable, Iterator

from cotdistill import __version__
from cotdistill.engines import Completion, Request, Sampling
from cotdistill.engines.batches import ATTEMPTS, Batches
from cotdistill.engines.clock import Clock
from cotdistill.engines.cluster import Share, connect, nodes, share
from cotdistill.engines.ray_worker import Died, OpenEngine, RayWorker, same
from cotdistill.errors import SetupError

log = logging.getLogger(__name__)

ROUNDS = 8
"""Batches of the inner engine that a worker gets at once: few pauses, and little is lost with a worker."""
GROWING = 60.0
"""Seconds between two lines that say that no worker has found its place in the cluster."""
PATIENCE = 3.0
"""Seconds that engines have to close before their processes are killed."""


class RayEngine:
    """``open_inner`` opens the inner engine, in each of ``workers`` processes, once. ``batch_size`` is the inner
    engine's. Greedy answers are those of the inner engine; sampled ones too, as far as they do not depend there on
    what else is in a batch.

    Raises ``SetupError`` where there is no cluster, or where no worker can open the model.
    """

    def __init__(self, open_inner: OpenEngine, *, batch_size: int = 8, workers: int | None = None) -> None:
        connect()
        self._batch_size = batch_size
        self._share: Share = share(nodes(), workers)
        log.info("%s", self._share.sentence())
        self._description: dict[str, str] | None = None
        self._workers: list[RayWorker] = []
        try:
            for _ in range(self._share.workers):
                self._workers.append(RayWorker(open_inner, cpus=self._share.cpus, gpus=self._share.gpus))
            while self._description is None:
                self._opened(self._next_ready())
        except BaseException:
            self._kill(self._workers)
            raise

    def describe(self) -> dict[str, str]:
        """That of the inner engine: it writes the same wherever it runs."""
        import ray

        said = {key: value for key, value in (self._description or {}).items() if key != "cotdistill"}
        return {**said, "ray": f"{ray.__version__}, {self._share.workers} workers"}

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Leaving the iterator early drops what is in flight, and the workers that have it."""
        size = self._batch_size * ROUNDS
        batches = Batches(requests, size=size, least=self._batch_size, workers=len(self._workers))
        clock = Clock()
        try:
            while self._give(batches, sampling):
                worker = self._next_ready()
                if not worker.ready:
                    self._opened(worker)
                    continue
                for completion in self._taken(worker, batches):
                    yield clock.stamp(completion)
        finally:
            self._kill([worker for worker in self._workers if worker.left])

    def close(self) -> None:
        import ray

        closing = [worker.closing() for worker in self._workers if worker.ready and not worker.left]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=PATIENCE)
        self._kill(self._workers)

    def _give(self, batches: Batches, sampling: Sampling) -> bool:
        """Give work to the workers that have none; False when all work is done."""
        for worker in self._workers:
            if worker.waits_for is None and not worker.ready:
                worker.start()  # killed when an earlier iterator was left
            if worker.waits_for is None and (batch := batches.next()):
                worker.give(batch, sampling)
        return any(worker.left for worker in self._workers) or batches.more()

    def _taken(self, worker: RayWorker, batches: Batches) -> list[Completion]:
        """What a worker has to say: an answer, nothing, or what its end costs."""
        try:
            completion = worker.take()
        except Died as why:
            log.warning("a worker ended (%s); %d requests are asked again", why, len(worker.left))
            left = list(worker.left.values())
            worker.kill()
            worker.start()
            return batches.lost(left, str(why))
        return [] if completion is None else [completion]

    def _opened(self, worker: RayWorker) -> None:
        """A worker has opened its engine, or has not."""
        try:
            said = worker.opened()
        except Died as why:
            worker.kill()
            worker.failures += 1
            if worker.failures < ATTEMPTS:
                log.warning("a worker ended while it opened the model (%s); trying again", why)
                worker.start()
                return
            self._workers.remove(worker)
            if not self._workers:
                raise SetupError(f"the workers end while they open the model, the last one: {why}") from why
            log.warning("a worker is given up: it ended %d times while it opened the model (%s)", ATTEMPTS, why)
            return
        self._description = self._description or {**said, "cotdistill": __version__}
        same(self._description, said)

    def _next_ready(self) -> RayWorker:
        """Wait for a worker that has something to say."""
        import ray

        waiting = {id(worker.waits_for): worker for worker in self._workers if worker.waits_for is not None}
        references = [worker.waits_for for worker in waiting.values()]
        while True:
            ready, _ = ray.wait(references, timeout=GROWING)
            if ready:
                return waiting[id(ready[0])]
            if not any(worker.ready for worker in self._workers):
                log.warning("no worker has begun yet: each needs %s to itself; see `ray status`", self._share.each)

    def _kill(self, workers: list[RayWorker]) -> None:
        for worker in workers:
            worker.kill()
