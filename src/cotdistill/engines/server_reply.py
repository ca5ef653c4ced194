"""What an OpenAI-compatible server's reply means: an answer, a row that failed, another try, or the end.

    200 {"model": "m", "choices": [{"message": {"content": "0.15 * 240 = 36", "reasoning_content": "..."},
         "finish_reason": "stop"}], "usage": {"prompt_tokens": 180, "completion_tokens": 24}}   -> Reply
    400 {"error": {"message": "context length exceeded"}}                                       -> Refused
    429, 5xx, no JSON, empty choices                                                            -> Again
    401, 403, 404                                                                               -> SetupError
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from cotdistill.engines import Finish
from cotdistill.errors import SetupError
from cotdistill.shown import one_line
from cotdistill.thinking import CLOSE, OPEN, apart

LONGEST_WAIT = 120.0
"""Seconds. A server may ask for more patience with ``Retry-After``; a run should rather fail and be resumed."""

LONGEST_MESSAGE = 300

GAVE_UP = ("error", "abort", "insufficient_system_resource")
"""Reasons to finish that say the server gave up, as vLLM's "abort" when it is stopped: what it wrote until then is no
answer."""


class Refused(Exception):
    """This request will never be answered; others may."""


class Again(Exception):
    """Not answered; another try may be. ``wait``: seconds the server asked for. ``busy``: it has more to do than it
    can. ``away``: it cannot be reached."""

    def __init__(self, message: str, *, wait: float | None = None, busy: bool = False, away: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.busy = busy
        self.away = away


class Reply(msgspec.Struct, frozen=True):
    """One answer. ``model`` is what the server calls the model that gave it, empty where it does not say."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    thinking: str | None
    model: str


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None


def read_reply(status: int, headers: Mapping[str, str], body: bytes, hide: Callable[[str], str] = str) -> Reply:
    """The answer in a reply. Raises ``Again``, ``Refused`` or ``SetupError`` where there is none.

    A reason to finish other than "stop" (a content filter, none at all) counts as cut off: such text may be half
    an answer. Token counts that the server leaves out are 0. ``hide`` takes secrets out of what goes into errors.
    """
    if status != 200:
        raise failure(status, headers, body, hide)
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Again(f"the reply is not what it should be ({error}): {said(body, hide)}") from None
    if not answer.choices:
        raise Again(f"the reply holds no answer: {said(body, hide)}")
    choice = answer.choices[0]
    if choice.finish_reason in GAVE_UP:
        raise Again(f"the server gave up ({choice.finish_reason})", busy=True)
    usage = answer.usage or _Usage()
    whole, message = choice.message.content or "", choice.message
    # A server without a parser for thoughts leaves them in, without the tag that the prompt ended in.
    text, thought = apart(whole, opened=CLOSE in whole and OPEN not in whole)
    return Reply(
        text=text,
        finish="stop" if choice.finish_reason == "stop" else "length",
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        thinking=message.reasoning_content or message.reasoning or thought or None,
        model=answer.model or "",
    )


def said(body: bytes, hide: Callable[[str], str] = str) -> str:
    """What a server says in the body of a failure, in one line that fits into a log."""
    text = body[: 1 << 16].decode("utf-8", errors="replace")
    try:
        message = _message(msgspec.json.decode(body))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        message = None
    whole = hide(one_line(message or text.strip() or "no reason given"))  # first: half a secret is one, too
    return whole if len(whole) <= LONGEST_MESSAGE else f"{whole[:LONGEST_MESSAGE]}..."


def retry_after(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Seconds that ``Retry-After`` asks to wait, given in seconds or as a date; at most ``LONGEST_WAIT``."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds()
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else None


def failure(status: int, headers: Mapping[str, str], body: bytes, hide: Callable[[str], str]) -> Exception:
    """What a status other than 200 means: ``Again``, ``Refused`` or ``SetupError``."""
    message = said(body, hide)
    if status == 401:  # without its message: some servers repeat parts of the key in it
        return SetupError("it refuses the API key (401); check --api_key_env or --api_key_file")
    if status == 402 or b"insufficient_quota" in body[: 1 << 16]:
        return SetupError(f"the account has no credit left ({status}): {message}; the same command goes on later")
    if status == 403:
        return SetupError(f"it forbids the request (403): {message}; check the API key and what it may use")
    if status == 404:
        return SetupError(f"it knows no such model or address (404): {message}; check the model's name and --base_url")
    if 300 <= status < 400:
        return SetupError(f"it redirects elsewhere ({status}); give --base_url the address that answers itself")
    if b"unsupported_parameter" in body[: 1 << 16] or b"unsupported_value" in body[: 1 << 16]:
        return SetupError(f"it does not take our settings ({status}): {message}")
    if status in (408, 409, 425, 429) or status >= 500:
        return Again(f"status {status}: {message}", wait=retry_after(headers), busy=status in (429, 503))
    return Refused(f"status {status}: {message}")


def _message(data: object) -> str | None:
    """``{"error": {"message": ...}}``, ``{"error": ...}``, ``{"message": ...}`` or ``{"detail": ...}``."""
    while isinstance(data, dict):
        data = next((data[key] for key in ("error", "message", "detail") if data.get(key)), None)
    return data if isinstance(data, str) else None
