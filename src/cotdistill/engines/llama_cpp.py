"""Run a GGUF model in this process with llama.cpp (xllamacpp): continuous batching, prompt prefix cached.

xllamacpp opens an HTTP listener on loopback beside the in-process interface used here; it gets a random key,
so that no other process on the machine can use it.
"""

import queue
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cotdistill.engines import Completion, Request, Sampling
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash


class LlamaCppEngine:
    """``slots`` requests are decoded together, each with up to ``context`` tokens of prompt and answer."""

    def __init__(
        self, path: Path, *, name: str = "", slots: int = 8, context: int = 2048, threads: int = 0
    ) -> None:
        import xllamacpp

        self._path = path
        self._name = name or path.stem
        self._slots = slots
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context * slots
        parameters.n_parallel = slots
        parameters.api_keys = [secrets.token_hex(32)]
        parameters.verbosity = 0
        parameters.warmup = False
        if threads:
            parameters.cpuparams.n_threads = threads
            parameters.cpuparams_batch.n_threads = threads
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError) as error:
            raise SetupError(f"llama.cpp cannot load {path}: {str(error).strip() or 'no reason given'}") from error

    def describe(self) -> dict[str, str]:
        return {
            "engine": f"llama.cpp (xllamacpp {version('xllamacpp')})",
            "model": self._name,
            "hash": model_hash(self._path),
            "dtype": "gguf",
        }

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """At most ``slots`` requests are in flight; leaving the iterator early waits for those only."""
        todo = iter(requests)
        done: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        clock = _Clock()

        def work(request: Request) -> None:
            done.put(self._ask(request, sampling))

        running = 0
        threads: list[threading.Thread] = []
        try:
            while True:
                while running < self._slots and (request := next(todo, None)) is not None:
                    thread = threading.Thread(target=work, args=(request,), daemon=True)
                    thread.start()
                    threads.append(thread)
                    running += 1
                if not running:
                    return
                completion = done.get()
                running -= 1
                yield clock.stamp(completion)
                threads = [thread for thread in threads if thread.is_alive()]
        finally:
            todo = iter(())

    def close(self) -> None:
        self._server = None

    def _ask(self, request: Request, sampling: Sampling) -> Completion:
        body: dict[str, Any] = {
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": sampling.max_new_tokens,
            "cache_prompt": True,
            "temperature": sampling.temperature if sampling.do_sample else 0.0,
            "top_p": sampling.top_p,
            "top_k": 0 if sampling.do_sample else 1,
            "min_p": 0.0,
            "seed": (sampling.seed * 1_000_003 + request.seed) % (1 << 31),
        }
        try:
            answer = self._server.handle_chat_completions(body)
            choice, usage = answer["choices"][0], answer["usage"]
        except (RuntimeError, KeyError, IndexError, TypeError) as error:
            return Completion(request.key, "", "error", 0, 0, 0.0, f"llama.cpp: {error}")
        finish = choice.get("finish_reason")
        return Completion(
            key=request.key,
            text=choice["message"].get("content") or "",
            finish="stop" if finish == "stop" else "length",
            prompt_tokens=int(usage["prompt_tokens"]),
            completion_tokens=int(usage["completion_tokens"]),
            seconds=0.0,
        )


class _Clock:
    """Shares the wall time out among completions that were computed together: each gets the time since the
    one before it, so that the sum is the time that passed."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def stamp(self, completion: Completion) -> Completion:
        import msgspec

        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return msgspec.structs.replace(completion, seconds=seconds)
