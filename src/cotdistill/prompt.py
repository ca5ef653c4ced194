"""Prompt: how a question is put to a model.

Teacher and student see the same words, except that the teacher may also see worked examples
(``--few_shot``), which the student learns to do without. Gold never enters a prompt: the functions here
are not given it.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cotdistill.engines import Message
from cotdistill.errors import DataError
from cotdistill.identity import digest
from cotdistill.question import Question

SYSTEM_PROMPT = (
    "Solve the problem step by step in a few short, plain sentences, one small calculation at a time. "
    "Then end with one line: Final Answer: <answer>"
)

LABEL_PROMPT = "Give the answer alone, without any reasoning, in one line: Final Answer: <answer>"
"""The task of the students that also learn to answer at once (``step_by_step``)."""


class Shot(msgspec.Struct, frozen=True):
    """A worked example: ``{"question": "...", "reasoning": "...\\nFinal Answer: 12"}``."""

    question: str
    reasoning: str


def load_few_shot(path: Path) -> tuple[Shot, ...]:
    """Read worked examples, one JSON object a line. Raises ``DataError`` naming file and line."""
    shots: list[Shot] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot read the few-shot file {path}: {getattr(error, 'strerror', error)}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                shots.append(msgspec.json.decode(line, type=Shot))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a worked example: {error}") from error
    if not shots:
        raise DataError(f"the few-shot file {path} holds no worked example")
    return tuple(shots)


def shots_hash(shots: Sequence[Shot]) -> str:
    """Worked examples by their content."""
    return digest(msgspec.to_builtins(tuple(shots)))


def user_text(question: Question) -> str:
    """The question as the model reads it, with its choices lettered below it where it has any."""
    if not question.choices:
        return question.text
    lines = [f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(question.choices)]
    return "\n".join([question.text, *lines])


def messages_for(question: Question, system: str, shots: Sequence[Shot] = ()) -> tuple[Message, ...]:
    """System prompt, worked examples as earlier turns, then the question."""
    messages = [Message("system", system)] if system else []
    for shot in shots:
        messages += [Message("user", shot.question), Message("assistant", shot.reasoning)]
    return (*messages, Message("user", user_text(question)))


def prompt_hash(messages: Sequence[Message]) -> str:
    """First 16 hex digits of the SHA-256 of the messages: equal prompts have equal hashes."""
    return digest(messages)
