"""Options that several commands share, so that they read and mean the same everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from cotdistill.engines.opening import ENGINES
from cotdistill.engines.server import Server
from cotdistill.errors import UsageError

SystemPrompt = Annotated[str, typer.Option("--system_prompt", help="What every prompt begins with.")]
MaxNewTokens = Annotated[int, typer.Option("--max_new_tokens", min=1, help="Most tokens of one answer.")]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="Prompts computed together.")]
EngineOption = Annotated[str, typer.Option("--engine", help=f"One of: {', '.join(ENGINES)}.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes on a Ray cluster, for --engine ray:... [one a GPU, or a node]."),
]
Baseline = Annotated[
    str, typer.Option("--baseline", help="Ways to ask the base, by commas: zero, few_shot, native (its own prompt).")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is random.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N questions.")]
Load4Bit = Annotated[
    bool | None,
    typer.Option("--load_in_4bit/--no_4bit", help="Default: 4-bit on a CUDA GPU with bitsandbytes, else not."),
]
DeviceMap = Annotated[str, typer.Option("--device_map", help="Where layers go on GPUs: auto, or a device.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust_remote_code", help="Run code that ships with the model. Off unless asked for.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away earlier output and start anew.")]
BreakLock = Annotated[
    bool, typer.Option("--break_lock", help="Take over from a process on another host that is gone for certain.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors and results.")]
QuestionKey = Annotated[str, typer.Option("--question_key", help="Key of the question in the input rows.")]
AnswerKey = Annotated[str, typer.Option("--answer_key", help="Key of the gold answer in the input rows.")]

BaseUrl = Annotated[
    list[str] | None,
    typer.Option("--base_url", help="OpenAI-compatible server with the teacher, up to /v1; may be given repeatedly."),
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Most requests in flight at each server.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Most seconds for one request to a server.")]
ApiKeyEnv = Annotated[
    str | None, typer.Option("--api_key_env", help="Environment variable with the server's key [OPENAI_API_KEY].")
]
ApiKeyFile = Annotated[Path | None, typer.Option("--api_key_file", help="File with the server's key.")]
ExtraBody = Annotated[
    str | None,
    typer.Option("--extra_body", help="JSON object that goes into every request to a server."),
]


def server_of(
    base_url: list[str] | None,
    concurrency: int,
    timeout: float,
    api_key_env: str | None,
    api_key_file: Path | None,
    price_prompt: float | None = None,
    price_completion: float | None = None,
    extra_body: str | None = None,
) -> Server | None:
    """The server that the flags describe, if any. Raises ``UsageError`` for flags that cannot be right, or have no
    server to be about."""
    given: dict[str, Any] = {
        "concurrency": concurrency, "timeout": timeout, "api_key_env": api_key_env,
        "api_key_file": str(api_key_file) if api_key_file else None, "price_prompt": price_prompt,
        "price_completion": price_completion, "extra_body": _json_object("--extra_body", extra_body),
    }  # fmt: skip
    if base_url:
        with usage():
            return checked(Server(base_url=tuple(base_url), **given))
    for field in msgspec.structs.fields(Server):
        if given.get(field.name, field.default) != field.default:
            raise UsageError(f"--{field.name} is about a server: say which with --base_url")
    return None


def _json_object(flag: str, text: str | None) -> dict[str, Any] | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"{flag} is not a JSON object ({error}); write it as '{{\"top_k\": 20}}'") from None


S = TypeVar("S", bound=msgspec.Struct)


def checked(settings: S) -> S:
    """The same settings, held to the bounds of a recipe, which are not looked at where code makes a struct. Raises
    ``ValueError`` naming the setting."""
    try:
        return msgspec.convert(msgspec.to_builtins(settings), type(settings))
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        raise ValueError(f"{place.rstrip('`')}: {what}" if place else what) from error


@contextmanager
def usage() -> Iterator[None]:
    """Settings that refuse what flags say raise ``UsageError``."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def counted(counts: dict[str, int]) -> str:
    """``42 correct, 9 wrong``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
