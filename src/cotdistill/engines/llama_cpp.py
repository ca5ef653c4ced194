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
from cotdistill.engines.literal import literal_ids, looks_marked, plain_ids, rendered, told
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash
from cotdistill.machine import machine
from cotdistill.thinking import EMPTY, OPEN, apart

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
        self._opens: dict[bool, bool] = {}  # whether a prompt ends inside a thought, without and with thinking
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
            self._share(first.messages[:-1], sampling.thinking)
        self._opens_thinking(sampling.thinking)
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

    def _share(self, prefix: Sequence[Message], thinking: bool) -> None:
        """Compute what all prompts begin with in slot 0 and copy its state to the others. Only saves time:
        where it fails, every slot computes the prefix for itself."""
        messages = [*_plain(prefix), {"role": "user", "content": "."}]
        body = {"messages": messages, "max_tokens": 1, "cache_prompt": True, "id_slot": 0, **told(thinking)}
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
            ids = self._unusual(request.messages, sampling.thinking)
            if ids is None:
                chat = {"messages": _plain(request.messages), **told(sampling.thinking), **body}
                answer = self._server.handle_chat_completions(chat)
            else:
                answer = self._server.handle_completions({"prompt": ids, **body})
            if "error" in answer:
                raise RuntimeError(answer["error"].get("message", "refused"))
            choice, usage = answer["choices"][0], answer["usage"]
            if ids is None:
                text, thinking = choice["message"].get("content"), choice["message"].get("reasoning_content")
            else:
                text, thinking = apart(choice["text"], opened=sampling.thinking and self._opens_thinking(True))
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
            return Completion.failed(request, f"llama.cpp: {error}")
        finish = choice.get("finish_reason")
        return Completion(
            key=request.key,
            text=text or "",
            finish="stop" if finish == "stop" else "length",
            prompt_tokens=int(usage["prompt_tokens"]),
            completion_tokens=int(usage["completion_tokens"]),
            seconds=0.0,
            thinking=thinking or None,
        )

    def prompt_ids(self, messages: Sequence[Message], *, thinking: bool = False) -> list[int]:
        """The ids that it reads for a prompt. Raises ``RuntimeError`` where llama.cpp cannot render it."""
        if (ids := self._unusual(messages, thinking)) is not None:
            return ids
        with self._http() as http:
            return plain_ids(http, _plain(messages), thinking=thinking)

    def _unusual(self, messages: Sequence[Message], thinking: bool) -> list[int] | None:
        """The ids of a prompt that the chat endpoint would read otherwise than ``ChatTemplate``: of one that writes
        out a control token, or that opens a thought which is not wanted and so is closed."""
        behind = EMPTY if not thinking and self._opens_thinking(False) else ""
        if not behind and not looks_marked(messages):
            return None
        with self._http() as http:
            ids = literal_ids(http, messages, thinking=thinking, behind=behind) if looks_marked(messages) else None
            if ids is None and behind:
                return plain_ids(http, _plain(messages), thinking=thinking, behind=behind)
            return ids

    def _opens_thinking(self, thinking: bool) -> bool:
        if thinking not in self._opens:
            with self._http() as http:
                try:
                    text = rendered(http, [{"role": "user", "content": "."}], thinking)
                except RuntimeError:  # every request will say so
                    text = ""
            self._opens[thinking] = text.rstrip().endswith(OPEN)
        return self._opens[thinking]


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
