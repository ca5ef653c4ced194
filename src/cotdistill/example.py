"""Example: a trace as token ids, of which only the answer is trained.

    {"trace_id": "q1a2#0", "question_id": "q1a2", "input_ids": [1, 9690, ...], "prompt_length": 61}
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from cotdistill.errors import TrainingError
from cotdistill.prompt import messages_for
from cotdistill.question import Question
from cotdistill.template import ChatTemplate
from cotdistill.verdict import TaughtText

IGNORE = -100
"""The label that the loss skips (torch's convention)."""


Task = Literal["reasoning", "label"]
"""What a row teaches: to reason, or to answer at once (``step_by_step``)."""


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """``input_ids`` is prompt, answer and end-of-turn token; the first ``prompt_length`` ids are not trained."""

    trace_id: str
    question_id: str
    input_ids: list[int]
    prompt_length: int
    task: Task = "reasoning"

    @property
    def labels(self) -> list[int]:
        """As long as ``input_ids``: -100 over the prompt, then the ids themselves."""
        return [IGNORE] * self.prompt_length + self.input_ids[self.prompt_length :]


def answer_tokens(example: Example) -> int:
    """How many ids of an example are trained: all after the prompt, but not a first one, which nothing precedes."""
    return len(example.input_ids) - max(example.prompt_length, 1)


def asked_with(prompt: Sequence[int], example: Example) -> Example:
    """The same answer after another prompt."""
    ids = [*prompt, *example.input_ids[example.prompt_length :]]
    return msgspec.structs.replace(example, input_ids=ids, prompt_length=len(prompt))


def after(example: Example, length: int) -> Example:
    """An example without the first ``length`` ids of its prompt."""
    return msgspec.structs.replace(
        example, input_ids=example.input_ids[length:], prompt_length=example.prompt_length - length
    )


class Examples(msgspec.Struct, frozen=True):
    """What fits, and how long the ones were that did not (tokens)."""

    kept: list[Example]
    too_long: list[int]


def build_example(
    template: ChatTemplate, question: Question, answer: str, *, system: str, trace_id: str, task: Task = "reasoning"
) -> Example:
    """Encode one question and the text the student shall write for it."""
    prompt = template.prompt_ids(messages_for(question, system))
    return Example(trace_id, question.id, prompt + template.answer_ids(answer), len(prompt), task)


def build_examples(
    template: ChatTemplate,
    pairs: Iterable[TaughtText],
    *,
    system: str,
    max_length: int,
    task: Task = "reasoning",
) -> Examples:
    """Encode ``(trace id, question, text)`` triples. What exceeds ``max_length`` ids is dropped and counted,
    never cut: a cut answer teaches the student to stop in mid-thought.

    Raises ``TrainingError`` with the histogram of lengths when nothing is left or over a fifth is dropped.
    """
    kept: list[Example] = []
    too_long: list[int] = []
    for trace_id, question, answer in pairs:
        example = build_example(template, question, answer, system=system, trace_id=trace_id, task=task)
        if len(example.input_ids) <= max_length:
            kept.append(example)
        else:
            too_long.append(len(example.input_ids))
    if not kept and not too_long:
        raise TrainingError("no trace may teach; `cotdistill verify` writes down why each was dropped")
    if len(too_long) > 0.2 * (len(kept) + len(too_long)):
        lengths = [len(example.input_ids) for example in kept] + too_long
        raise TrainingError(
            f"{len(too_long)} of {len(lengths)} examples exceed max_length {max_length} tokens "
            f"({histogram(lengths)}); raise --max_length to {max(lengths)} or ask for shorter traces"
        )
    return Examples(kept, too_long)


def validation_split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """The rows to train on and those of the validation questions, on which the adapter is tried after each epoch; both
    in their order. Whole questions are set aside, with all their traces, chosen by a hash; at least one where
    ``share`` is not 0. The held-out questions, which decide the verdict, are others.

    Raises ``TrainingError`` where nothing would be left to train on.
    """
    if not share:
        return list(examples), []
    ids = {example.question_id for example in examples}
    drawn = sorted(ids, key=lambda id_: hashlib.sha256(f"{seed} {id_}".encode()).digest())
    aside = set(drawn[: max(1, round(share * len(drawn)))])
    if aside == ids:
        raise TrainingError(
            f"validation {share:g} of {len(ids)} questions leaves none to train on; choose a smaller share"
        )
    rows = [example for example in examples if example.question_id not in aside]
    return rows, [example for example in examples if example.question_id in aside]


def histogram(lengths: Sequence[int]) -> str:
    """Lengths in words, in at most six parts: ``60-99: 12, 100-139: 3``."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // 6))
    counts = dict.fromkeys(range(low, high + 1, width), 0)
    for length in lengths:
        counts[low + (length - low) // width * width] += 1
    return ", ".join(f"{start}-{start + width - 1}: {count}" for start, count in counts.items() if count)
