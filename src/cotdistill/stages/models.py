"""Models of a stage: which one it is, how it is opened, what runs it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.asking.hint import HINT
from cotdistill.download import local_model
from cotdistill.engines import Engine
from cotdistill.engines.api_key import refuse_written_key
from cotdistill.engines.opening import find_gguf, open_engine
from cotdistill.engines.server import Server
from cotdistill.identity import model_hash
from cotdistill.prompt import Shot, user_text
from cotdistill.question import Question
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models

log = logging.getLogger(__name__)

OpenEngine = Callable[[], Engine]


def engine_for(models: Models, batch_size: int, questions: Sequence[Question], generate: Generate,
                   shots: Sequence[Shot], device_map: str | None = "auto",
                   adapter: Path | None = None) -> Engine:  # fmt: skip
    """Open the teacher with a context that holds the longest prompt and its answer."""
    prompt = len(generate.system_prompt) + sum(len(s.question) + len(s.reasoning) for s in shots)
    hint = len(HINT) if generate.hint else 0
    asked = (len(user_text(question)) + hint + len(question.gold or "") * bool(hint) for question in questions)
    longest = prompt + max(asked, default=0)
    # Two characters a token is fewer than English or code has; what still does not fit becomes an error row.
    context = max(1024, longest // 2 + generate.longest + 256)
    return open_engine(
        models.teacher, engine=models.engine, adapter=adapter, batch_size=batch_size, context=context,
        longest=generate.longest, load_in_4bit=models.load_in_4bit, device_map=device_map,
        trust_remote_code=models.trust_remote_code, server=models.server, workers=models.workers,
    )  # fmt: skip


def identify(model: str, *, gguf: bool, server: Server | None = None) -> dict[str, Any]:
    """What a manifest says of a model: its name and the hash of its files; pulls a catalogue model if need be.
    A server's model has a name only, and what is added to each request to it."""
    if server and server.extra_body:
        refuse_written_key(server)
        return {"name": model, "hash": "", "extra_body": server.extra_body}
    if server:
        return {"name": model, "hash": ""}
    path = find_gguf(model) or local_model(model, want="gguf" if gguf else "hf")
    return {"name": Path(model).name, "hash": model_hash(path)}


class Teacher(msgspec.Struct, frozen=True):
    """A model that writes traces: its identity, how it is opened, and the server that has its prices."""

    model: dict[str, str]
    open: OpenEngine
    server: Server | None = None


def cached(teacher: Teacher, *, cache: bool) -> Engine:
    """The teacher, opened; with ``cache``, what other runs have asked it is not computed again. A server's model has
    no hash, so nobody could tell it from another one of its name."""
    engine = teacher.open()
    if not cache:
        return engine
    if not teacher.model["hash"]:
        log.info("the answers of %s are not cached: a server does not say which model that is", teacher.model["name"])
        return engine
    from cotdistill.engines.cached import CachedEngine
    from cotdistill.engines.completion_cache import CompletionCache, default_path

    return CachedEngine(engine, CompletionCache(default_path()), teacher.model["hash"])


def engine_and_format(engine: Engine) -> str:
    """What runs a model, in which number format; its version may change on the way."""
    said = engine.describe()
    return ", ".join(filter(None, (said["engine"].partition(" ")[0], said["dtype"])))


def cost(prompt_tokens: int, completion_tokens: int, server: Server | None) -> dict[str, int | float]:
    """Facts of a stage: its tokens, and the money where a server has prices."""
    money = server.money(prompt_tokens, completion_tokens) if server else None
    tokens: dict[str, int | float] = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return tokens if money is None else {**tokens, "money": money}
