"""Exchange: a question and what was answered to it, in the shapes in which other programs write them.

    {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    {"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "It is 2."}]}
    {"prompt": "2?", "completion": "It is 2."}           (or a list of messages each)

A system turn is passed over: every model here is asked with one system prompt, that of the settings.
"""

from collections.abc import Mapping, Sequence

import msgspec


class Exchange(msgspec.Struct, frozen=True):
    """What stands in the row, whatever its type; None where there is nothing. ``thinking`` is what a server's reply
    calls ``reasoning_content`` or ``reasoning``."""

    question: object
    answer: object
    thinking: object = None


def exchange_in(row: Mapping[str, object]) -> Exchange | None:
    """The exchange in a row, None for a row of another shape. Raises ``ValueError`` for a conversation that is not one
    question with at most one answer: which answer would be whose is anybody's guess."""
    if isinstance(row.get("instruction"), str):
        asked = [str(part) for part in (row["instruction"], row.get("input")) if part]
        return Exchange("\n\n".join(asked), row.get("output"))
    if isinstance(messages := row.get("messages"), list):
        return _of(messages)
    if row.get("prompt") is not None and row.get("completion") is not None:
        return _of([*_turns("user", row["prompt"]), *_turns("assistant", row["completion"])])
    return None


def _of(messages: Sequence[object]) -> Exchange:
    turns = [turn for turn in messages if isinstance(turn, dict) and turn.get("role") not in ("system", "developer")]
    roles = [turn.get("role") for turn in turns]
    if roles not in (["user"], ["user", "assistant"]):
        told = ", ".join(ascii(role) for role in roles[:6]) or "none"
        raise ValueError(f"its turns ({told}) are not one question and its answer; keep one of each, 'user' first")
    answer = turns[1] if turns[1:] else {}
    thinking = answer.get("reasoning_content") or answer.get("reasoning")
    return Exchange(turns[0].get("content"), answer.get("content"), thinking)


def _turns(role: str, written: object) -> list[object]:
    return written if isinstance(written, list) else [{"role": role, "content": written}]
