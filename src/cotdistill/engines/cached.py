"""An engine that asks another one only for what no run before has asked.

    CachedEngine(LlamaCppEngine(path), CompletionCache(default_path()), model_hash(path))

A request is known by the hash of the model, what runs it in which number format, the prompt, whether the model may
think first, the token limit and, where tokens are sampled, the sampling and its seed. Of an answer that failed nothing
is kept.
"""

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec

from cotdistill.engines import Completion, Engine, Request, Sampling
from cotdistill.engines.completion_cache import CompletionCache

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Most found answers that are held while the other engine reads ahead; then that engine has to finish first."""


class CachedEngine:
    """As the engine inside, but an answer that was found took no time: its ``seconds`` are 0."""

    def __init__(self, engine: Engine, cache: CompletionCache, model: str) -> None:
        self._engine = engine
        self._cache = cache
        said = engine.describe()
        self._identity = [model, said["engine"].partition(" ")[0], said["dtype"]]
        self._found = self._asked = 0

    def describe(self) -> dict[str, str]:
        return self._engine.describe()

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        todo = iter(requests)
        waiting: deque[Completion] = deque()
        keys: dict[str, bytes] = {}

        def missing() -> Iterator[Request]:
            while len(waiting) < MOST_WAITING and (request := next(todo, None)) is not None:
                if found := self._find(request, sampling, keys):
                    waiting.append(found)
                else:
                    yield request

        while (request := next(todo, None)) is not None:
            if found := self._find(request, sampling, keys):
                yield found
                continue
            for completion in self._engine.complete(itertools.chain([request], missing()), sampling):
                key = keys.pop(completion.key)
                if completion.finish != "error":
                    self._cache.put(key, completion)
                yield completion
                while waiting:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()

    def close(self) -> None:
        if self._asked:
            log.info("%d of %d answers were in the trace cache", self._found, self._asked)
            self._asked = 0
        self._cache.close()
        self._engine.close()

    def _find(self, request: Request, sampling: Sampling, keys: dict[str, bytes]) -> Completion | None:
        """The answer that is known, under the request's own key; else the request is noted in ``keys``."""
        drawn = [sampling.temperature, sampling.top_p, sampling.seed_of(request)] if sampling.do_sample else None
        thinking = ["thinking"] if sampling.thinking else []
        named = [*self._identity, request.messages, sampling.max_new_tokens, drawn, *thinking]
        key = blake2b(msgspec.json.encode(named), digest_size=32).digest()
        self._asked += 1
        if found := self._cache.get(key):
            self._found += 1
            return msgspec.structs.replace(found, key=request.key, seconds=0.0)
        keys[request.key] = key
        return None
