"""Thinking: what a model writes for itself before its answer, between two tags.

    "<think>\\nHalf of 8 is 4.\\n</think>\\n\\nFinal Answer: 4"  ->  "Final Answer: 4", "Half of 8 is 4."

Some chat templates open the block themselves, so that what the model writes begins inside it.
"""

OPEN, CLOSE = "<think>", "</think>"
EMPTY = f"\n{CLOSE}\n\n"
"""What makes an opened thought an empty one, as Qwen3 writes it."""


def apart(text: str, *, opened: bool = False) -> tuple[str, str | None]:
    """The answer, and what was thought before it, None where nothing was. A thought that never ends has no answer
    behind it: what stands in it is no answer either. ``opened``: the prompt ended inside the block."""
    begun = text.lstrip()
    if not opened and not begun.startswith(OPEN):
        return text, None
    thought, _, answer = begun.removeprefix(OPEN).partition(CLOSE)
    return answer.lstrip(), thought.strip()


def joined(answer: str, thought: str) -> str:
    """Thought and answer as a model writes them, in the form that Qwen3 and DeepSeek-R1 share."""
    return f"{OPEN}\n{thought.strip()}\n{CLOSE}\n\n{answer.lstrip()}"
