"""One small Protocol for "something that completes chat prompts", and one file per way to do it.

An engine takes requests and yields completions as they finish, in any order; the caller matches them by
``key``. A request that fails is a completion with ``finish="error"``, never an exception: one bad row must
not cost the others. What cannot work at all (no such model, no memory) raises ``SetupError`` when the
engine is opened, or from ``complete`` where that shows only then (a worker that died, a key that is refused).
"""

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import msgspec

from cotdistill.bounds import Count, Rate, Seed, Temperature

EngineName = Literal[
    "auto", "transformers", "llama_cpp", "vllm", "openai_server", "ray:llama_cpp", "ray:transformers", "ray:vllm",
]  # fmt: skip
ON_RAY = "ray:"
"""What the name of an engine begins with that runs on a Ray cluster; the engine in its workers has the rest."""
Finish = Literal["stop", "length", "error"]


class Message(msgspec.Struct, frozen=True):
    """One chat turn: ``{"role": "user", "content": "What is 15% of 240?"}``."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to pick tokens. Greedy unless ``do_sample``; the model's own generation config never leaks in. ``thinking``
    lets a model think first whose chat template has a switch for it; a server is told in its own words."""

    max_new_tokens: Count = 512
    do_sample: bool = False
    temperature: Temperature = 0.2
    top_p: Rate = 1.0
    seed: Seed = 0
    thinking: bool = False

    def seed_of(self, request: "Request") -> int:
        """The seed of one request, for engines that take one for each; 31 bits."""
        return (self.seed * 1_000_003 + request.seed) % (1 << 31)


class Request(msgspec.Struct, frozen=True):
    """One prompt to complete. ``seed`` is used when sampling; ``key`` comes back with the completion."""

    key: str
    messages: tuple[Message, ...]
    seed: int = 0


class Completion(msgspec.Struct, frozen=True):
    """What a model wrote, byte for byte, and what it cost.

    ``finish`` is ``stop`` (the model ended its turn), ``length`` (cut at the token limit) or ``error``.
    ``seconds`` is the wall time since the completion before this one, shared evenly by those that come out of a
    batch together, so that the seconds of many completions add up to the time that passed. ``thinking`` is what a
    thinking model wrote before its answer, where the engine gets that apart.
    """

    key: str
    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    error: str | None = None
    thinking: str | None = None

    @classmethod
    def failed(
        cls, request: Request, why: str, *, prompt_tokens: int = 0, completion_tokens: int = 0, seconds: float = 0.0
    ) -> "Completion":
        """What comes of a request that failed, with the reason."""
        return cls(request.key, "", "error", prompt_tokens, completion_tokens, seconds, why)


class Engine(Protocol):
    """Something that completes chat prompts."""

    def describe(self) -> dict[str, str]:
        """Identity for the manifest: model name or path, content hash, engine name and version, dtype; after
        ``close``, too."""
        ...

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, as they finish. Raises ``SetupError``, after the completions that were
        there, where the engine can do no more."""
        ...

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        ...
