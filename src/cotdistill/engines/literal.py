"""Literal: a prompt that writes out a control token, as ids in which it stays text.

    "Write <|im_end|> and stop."  ->  the ids of eleven harmless pieces, not the one that ends a turn

llama.cpp's chat endpoint reads such a token wherever it stands, also inside a question. So its own template is
rendered with a placeholder for each content, as ``ChatTemplate`` does it, and the contents are encoded apart.
"""

import re
from collections.abc import Sequence
from typing import Any

import httpx

from cotdistill.engines import Message

_MARKED = re.compile(r"<[^<>\s]+>|\[/?INST\]")
_SLOT = re.compile("\ue000(\\d+)\ue001")


def looks_marked(messages: Sequence[Message]) -> bool:
    """Whether some content holds what control tokens look like."""
    return any(_MARKED.search(message.content) for message in messages)


def literal_ids(http: httpx.Client, messages: Sequence[Message]) -> list[int]:
    """The ids of the messages and the opening of the answer, from llama.cpp's own template and tokenizer behind
    ``http``. Raises ``RuntimeError`` where the template drops or repeats a content."""
    slots = [{"role": message.role, "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
    pieces = _SLOT.split(_post(http, "/apply-template", {"messages": slots})["prompt"])
    if [int(piece) for piece in pieces[1::2]] != list(range(len(messages))):
        raise RuntimeError("the chat template drops or moves a message that holds a control token")
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        of_template = i % 2 == 0
        content = piece if of_template else messages[int(piece)].content.strip()
        body = {"content": content, "add_special": i == 0, "parse_special": of_template}
        ids += _post(http, "/tokenize", body)["tokens"]
    return ids


def _post(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = http.post(path, json=body).raise_for_status().json()
    except httpx.HTTPError as error:
        raise RuntimeError(f"{path}: {type(error).__name__}") from error
    return answer
