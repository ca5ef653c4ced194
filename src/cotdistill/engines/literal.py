"""Literal: a prompt that writes out a control token, as ids in which it stays text.

    "Write <|im_end|> and stop."  ->  the ids of some harmless pieces, not the one that ends a turn

llama.cpp's chat endpoint reads such a token wherever it stands, also inside a question. So its own template is
rendered with a placeholder for each content, as ``ChatTemplate`` does it, and the contents are encoded apart.
"""

import re
from collections.abc import Sequence
from typing import Any

import httpx

from cotdistill.engines import Message
from cotdistill.wording import DATE, SWITCHES

_MARKED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_SLOT = re.compile("\ue000(\\d+)\ue001")


def told(thinking: bool) -> dict[str, Any]:
    """What every request says to templates that write the day, or that let the model think first."""
    return {"chat_template_kwargs": {"date_string": DATE, **dict.fromkeys(SWITCHES, thinking)}}


def looks_marked(messages: Sequence[Message]) -> bool:
    """Whether some content holds what control tokens look like; the tokenizer knows which are."""
    return any(_MARKED.search(message.content) for message in messages)


def literal_ids(
    http: httpx.Client, messages: Sequence[Message], *, thinking: bool = False, behind: str = ""
) -> list[int] | None:
    """The ids of the messages and the opening of the answer, from llama.cpp's own template and tokenizer behind
    ``http``, with what is to stand ``behind`` them; None where no content holds a control token. Raises
    ``RuntimeError`` where the template drops or repeats one that does."""
    contents = [message.content.strip() for message in messages]
    read = [[_ids(http, text, special=special) for text in contents] for special in (False, True)]
    if read[0] == read[1]:
        return None
    slots = [{"role": message.role, "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
    pieces = _SLOT.split(rendered(http, slots, thinking) + behind)
    if [int(piece) for piece in pieces[1::2]] != list(range(len(messages))):
        raise RuntimeError("the chat template drops or moves a message that holds a control token")
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        ids += read[0][int(piece)] if i % 2 else _ids(http, piece, special=True, first=i == 0)
    return ids


def plain_ids(
    http: httpx.Client, messages: Sequence[dict[str, str]], *, thinking: bool = False, behind: str = ""
) -> list[int]:
    """The ids that llama.cpp's chat endpoint reads, with what is to stand ``behind`` them. Raises ``RuntimeError``
    where it does not answer."""
    return _ids(http, rendered(http, messages, thinking) + behind, special=True, first=True)


def rendered(http: httpx.Client, messages: Sequence[dict[str, str]], thinking: bool) -> str:
    """The messages and the opening of the answer as text. Raises ``RuntimeError`` where it does not answer."""
    return str(_post(http, "/apply-template", {"messages": messages, **told(thinking)})["prompt"])


def _ids(http: httpx.Client, text: str, *, special: bool, first: bool = False) -> list[int]:
    """``special``: control tokens are read as such; ``first``: with whatever the tokenizer puts before a text."""
    body = {"content": text, "add_special": first, "parse_special": special}
    return list(_post(http, "/tokenize", body)["tokens"])


def _post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = http.post(path, json=body).raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise RuntimeError(f"{path}: {type(error).__name__}") from error
    return answer
