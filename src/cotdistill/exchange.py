"""Exchange: a question and what was answered to it, in the shapes in which other programs write them.

    {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    {"messages": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "It is 2."}]}

A system turn is passed over: every model here is asked with one system prompt, that of the settings.
"""

from collections.abc import Mapping, Sequence

import msgspec


class Exchange(msgspec.Struct, frozen=True):
    """Both as they stand in the row; ``answer`` is None where there is none."""

    question: object
    answer: object


def exchange_in(row: Mapping[str, object]) -> Exchange | None:
    """The exchange in a row, None for a row of another shape. Raises ``ValueError`` for a conversation that is not one
    question with at most one answer: which answer would be whose is anybody's guess."""
    if isinstance(row.get("instruction"), str):
        asked = [str(part) for part in (row["instruction"], row.get("input")) if part]
        return Exchange("\n\n".join(asked), row.get("output"))
    if isinstance(messages := row.get("messages"), list):
        return _of(messages)
    return None


def _of(messages: Sequence[object]) -> Exchange:
    turns = [turn for turn in messages if isinstance(turn, dict) and turn.get("role") not in ("system", "developer")]
    roles = [turn.get("role") for turn in turns]
    if roles not in (["user"], ["user", "assistant"]):
        told = ", ".join(ascii(role) for role in roles[:6]) or "none"
        raise ValueError(f"its turns ({told}) are not one question and its answer; keep one of each, 'user' first")
    return Exchange(turns[0].get("content"), turns[1].get("content") if turns[1:] else None)
