"""Run a GGUF model in this process with llama.cpp (xllamacpp): continuous batching, shared prompt computed once.

xllamacpp opens an HTTP listener on loopback beside the in-process interface; it gets a random key, so that no
other process on the machine can use it. We use it ourselves for what the in-process interface lacks: copying the
computed system prompt and worked examples from the first slot to the others, and the ids of unusual prompts.
"""

import logging
import os
import queue
import secrets
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from cotdistill.engines import Completion, Message, Request, Sampling
from cotdistill.engines.by_prompt import ByPrompt
from cotdistill.engines.clock import Clock
from cotdistill.engines.literal import TEMPLATE, literal_ids, looks_marked, plain_ids
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash
from cotdistill.machine import machine

log = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds that an interrupted run waits for answers in flight; what is later is dropped whole."""


class LlamaCppEngine:
    """``slots`` requests are decoded together, each with up to ``context`` tokens of prompt and answer. ``adapter`` is
    a directory of peft's, applied without merging."""

    def __init__(self, path: Path, *, slots: int = 8, context: int = 2048, adapter: Path | None = None) -> None:
        import xllamacpp

        self._path = path
        self._slots = slots
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context * slots
        parameters.n_parallel = slots
        self._key = secrets.token_hex(32)
        self._states = tempfile.TemporaryDirectory(prefix="cotdistill-")
        parameters.api_keys = [self._key]
        parameters.slot_save_path = f"{self._states.name}/"
        parameters.endpoint_slots = True
        parameters.verbosity = 0
        parameters.warmup = False
        if (threads := _fewer_threads()) is not None:
            parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        if adapter:
            from cotdistill.model_files.gguf_adapter import write_gguf_adapter

            converted = Path(self._states.name) / "adapter.gguf"
            write_gguf_adapter(adapter, path, converted)
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(converted), 1.0)]
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError) as error:
            raise SetupError(f"llama.cpp cannot load {path}: {str(error).strip() or 'no reason given'}") from error

    def describe(self) -> dict[str, str]:
        return {
            "engine": f"llama.cpp (xllamacpp {version('xllamacpp')})",
            "model": self._path.stem,
            "hash": model_hash(self._path),
            "dtype": "gguf",
        }

    @property
    def address(self) -> str:
        """Where llama.cpp's own listener waits, on loopback: ``http://127.0.0.1:41231``."""
        return str(self._server.listening_address)

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """At most ``slots`` requests are in flight; leaving the iterator early waits for those only."""
        todo = ByPrompt(requests, self._slots)
        if (first := todo.next()) is None:
            return
        if len(first.messages) > 1:
            self._share(first.messages[:-1])
        done: queue.SimpleQueue[tuple[Request, Completion]] = queue.SimpleQueue()
        clock = Clock()

        def work(request: Request) -> None:
            done.put((request, self._ask(request, sampling)))

        running = 0
        threads: list[threading.Thread] = []
        request: Request | None = first
        try:
            while True:
                while request is not None:
                    thread = threading.Thread(target=work, args=(request,), daemon=True)
                    thread.start()
                    threads.append(thread)
                    running += 1
                    request = todo.next() if running < self._slots else None
                if not running:
                    return
                answered, completion = done.get()
                running -= 1
                request = todo.after(answered)
                yield clock.stamp(completion)
                threads = [thread for thread in threads if thread.is_alive()]
        finally:
            deadline = time.monotonic() + PATIENCE
            for thread in threads:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        self._server = None
        self._states.cleanup()

    def _share(self, prefix: Sequence[Message]) -> None:
        """Compute what all prompts begin with in slot 0 and copy its state to the others. Only saves time:
        where it fails, every slot computes the prefix for itself."""
        messages = [*_plain(prefix), {"role": "user", "content": "."}]
        body = {"messages": messages, "max_tokens": 1, "cache_prompt": True, "id_slot": 0, **TEMPLATE}
        self._server.handle_chat_completions(body)
        with self._http() as http:
            try:
                for slot in range(self._slots):
                    action = "restore" if slot else "save"
                    http.post(f"/slots/{slot}?action={action}", json={"filename": "prefix"}).raise_for_status()
            except httpx.HTTPError as error:
                log.info("the shared prompt is computed once for each slot (%s)", type(error).__name__)

    def _http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self._key}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, trust_env=False)

    def _ask(self, request: Request, sampling: Sampling) -> Completion:
        body: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "cache_prompt": True,
            "temperature": sampling.temperature if sampling.do_sample else 0.0,
            "top_p": sampling.top_p,
            "top_k": 0 if sampling.do_sample else 1,
            "min_p": 0.0,
            "repeat_penalty": 1.0,  # whatever the file itself says
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "seed": sampling.seed_of(request),
        }
        try:
            ids = self._literal(request.messages)
            if ids is None:
                chat = {"messages": _plain(request.messages), **TEMPLATE, **body}
                answer = self._server.handle_chat_completions(chat)
            else:
                answer = self._server.handle_completions({"prompt": ids, **body})
            if "error" in answer:
                raise RuntimeError(answer["error"].get("message", "refused"))
            choice, usage = answer["choices"][0], answer["usage"]
            message = choice["message"] if ids is None else _split(choice["text"])
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
            return Completion(request.key, "", "error", 0, 0, 0.0, f"llama.cpp: {error}")
        finish = choice.get("finish_reason")
        return Completion(
            key=request.key,
            text=message.get("content") or "",
            finish="stop" if finish == "stop" else "length",
            prompt_tokens=int(usage["prompt_tokens"]),
            completion_tokens=int(usage["completion_tokens"]),
            seconds=0.0,
            thinking=message.get("reasoning_content") or None,
        )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that it reads for a prompt. Raises ``RuntimeError`` where llama.cpp cannot render it."""
        with self._http() as http:
            return plain_ids(http, _plain(messages))

    def _literal(self, messages: Sequence[Message]) -> list[int] | None:
        if not looks_marked(messages):
            return None
        with self._http() as http:
            return literal_ids(http, messages)


def _split(text: str) -> dict[str, str]:
    """A completion as the chat endpoint gives it, thinking and answer apart."""
    thinking, closed, answer = text.partition("</think>")
    return {"content": answer, "reasoning_content": thinking.removeprefix("<think>")} if closed else {"content": text}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Without blanks around the contents, as ``ChatTemplate`` renders them for training and every other engine."""
    return [{"role": message.role, "content": message.content.strip()} for message in messages]


def _fewer_threads() -> int | None:
    """How many threads to use where this process may not use all cores, by its affinity or by OMP_NUM_THREADS, which
    Ray sets for its workers; else llama.cpp knows the machine better."""
    cores, given = machine().cores, os.environ.get("OMP_NUM_THREADS", "")
    allowed = min(cores, int(given)) if given.isdecimal() and int(given) else cores
    if allowed < cores:
        log.info("llama.cpp uses %d of %d cores, as OMP_NUM_THREADS says", allowed, cores)
    return allowed if allowed < (os.cpu_count() or allowed) else None
