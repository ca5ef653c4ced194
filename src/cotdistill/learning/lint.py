"""Lint: what is about to be trained, looked at before any time is spent on it.

    One example of 96, q1a2#0. Lines with a bar are trained:
      <|im_start|>user
      What is 2 + 2?<|im_end|>
      <|im_start|>assistant
    | 2 + 2 = 4
    | Final Answer: 4<|im_end|>
    96 examples, 4 more were too long; 2,310 answer tokens; 18 steps of about 940 tokens

How examples are made leaves little room for most of these errors. They are looked for in the finished ids all the
same, because a training with one of them ends well and gives a student that never stops, or never reasons.
"""

import importlib.util
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cotdistill.errors import SetupError, TrainingError
from cotdistill.example import Example, Examples, answer_tokens, validation_split
from cotdistill.prompt import messages_for
from cotdistill.settings.evaluate import Evaluate
from cotdistill.settings.train import Target, Tracker, TrainSettings
from cotdistill.shown import one_line, visible
from cotdistill.statistics import percentile
from cotdistill.template import ChatTemplate
from cotdistill.thinking import apart
from cotdistill.verdict import TaughtText

LONGEST_ANSWER = Evaluate().max_new_tokens
"""Most new tokens of an answer in an evaluation, unless another number is set."""

TRACKERS: Mapping[Tracker, tuple[str, ...]] = {
    "none": (), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",),
}  # fmt: skip
"""The trackers that the Trainer can report to, each with the packages of which it needs one."""


class Lint(msgspec.Struct, frozen=True):
    """``sample`` and ``counts`` are for people; with ``errors`` there must be no training, ``warnings`` are doubts."""

    sample: str
    counts: str
    errors: list[str]
    warnings: list[str]

    def stop(self) -> None:
        """Raise ``TrainingError`` where there are errors."""
        if self.errors:
            raise TrainingError(f"these examples must not be trained on: {'; '.join(self.errors)}")


def check_packages(settings: TrainSettings) -> None:
    """Raise ``SetupError`` where a package is missing that the optimizer or the tracker is in."""
    if settings.optim == "adamw_8bit" and not _there("bitsandbytes"):
        raise SetupError("the optimizer adamw_8bit is in bitsandbytes: pip install bitsandbytes, or take adamw")
    if (names := TRACKERS[settings.report_to]) and not any(map(_there, names)):
        raise SetupError(f"report_to {settings.report_to} needs a package: pip install {names[0]}")


def lint(
    template: ChatTemplate,
    pairs: Sequence[TaughtText],
    examples: Examples,
    settings: TrainSettings,
    *,
    system: str,
    max_new_tokens: int,
    beside: Sequence[Example] = (),
) -> Lint:
    """Hold the examples against the ``pairs`` they were made from and against what an evaluation will do:
    ask with ``prompt_ids`` and read at most ``max_new_tokens``. ``beside`` are trained with them, and only counted."""
    told = {trace_id: (question, text) for trace_id, question, text in pairs}
    errors: dict[str, list[str]] = {}
    doubts: dict[str, list[str]] = {}
    for example in examples.kept:
        question, text = told[example.trace_id]
        asked = template.prompt_ids(messages_for(question, system))
        for problem in _errors(template, example, asked, text):
            errors.setdefault(problem, []).append(example.trace_id)
        for doubt in _doubts(template, example, text, settings.target):
            doubts.setdefault(doubt, []).append(example.trace_id)
    kept = len(examples.kept)
    warnings = [_where(doubt, ids, kept) for doubt, ids in doubts.items()]
    p99 = percentile([*map(answer_tokens, examples.kept)], 0.99)
    if p99 and p99 > max_new_tokens:
        warnings.append(
            f"one trace in a hundred has {p99} tokens or more, and the evaluation stops after {max_new_tokens}: "
            "the student will be cut off; raise max_new_tokens there"
        )
    return Lint(
        render(template, examples.kept[0], kept), _counts(examples, beside, settings),
        [_where(problem, ids, kept) for problem, ids in errors.items()], warnings,
    )  # fmt: skip


def render(template: ChatTemplate, example: Example, of: int) -> str:
    """An example as the student reads it, control tokens included, the trained lines behind a bar."""
    prompt, answer = example.input_ids[: example.prompt_length], example.input_ids[example.prompt_length :]
    lines = [f"One example of {of}, {one_line(example.trace_id)}. Lines with a bar are trained:"]
    lines += [f"  {line}" for line in visible(_decoded(template, prompt)).removesuffix("\n").split("\n")]
    lines += [f"| {line}" for line in visible(_decoded(template, answer)).split("\n")]
    return "\n".join(lines)


def _errors(template: ChatTemplate, example: Example, asked: list[int], text: str) -> Iterator[str]:
    ids, end, bos = example.input_ids, template.end_of_turn, template.tokenizer.bos_token_id
    answer = ids[example.prompt_length :]
    if ids[: example.prompt_length] != asked:
        yield "the prompt is not the one an evaluation asks with"
    if answer[-1:] != [end]:
        yield "the end of turn is not in the loss, so the student would not learn to stop"
    if answer.count(end) > 1:
        yield "there is more than one end of turn in the answer"
    if bos is not None and (ids[:2] == [bos, bos] or (bos != end and bos in answer)):
        yield "there is a second BOS"
    trained = _decoded(template, [i for i in answer if i != end])
    if not _unknown(template, answer) and _bare(trained) != _bare(template.written(text)):
        yield "the trained part is not the trace"


def _doubts(template: ChatTemplate, example: Example, text: str, target: Target) -> Iterator[str]:
    if _unknown(template, example.input_ids[example.prompt_length :]):
        yield "the tokenizer has no token for a part of the trace"
    answer, thought = apart(text)
    if target != "answer" and not thought and answer.lstrip("*# \n").lower().startswith("final answer"):
        yield "the trace is its answer alone; worked examples (--few_shot) bring a teacher to show its steps"
    if template.thinking and not thought:
        yield "nothing was thought before the trace, and the target is thinking"
    elif thought and not template.thinking and template.fixed[False] != template.fixed[True]:
        yield "the trace thinks, behind a prompt that says it should not: the target thinking teaches thoughts, too"


def _unknown(template: ChatTemplate, answer: Sequence[int]) -> bool:
    unknown = template.tokenizer.unk_token_id
    return unknown is not None and unknown != template.end_of_turn and unknown in answer


def _counts(examples: Examples, beside: Sequence[Example], settings: TrainSettings) -> str:
    rows, tried = validation_split([*examples.kept, *beside], settings.validation, settings.seed)
    each, steps = settings.steps(len(rows))
    tokens = sum(len(example.input_ids) for example in rows)
    parts = [f"{len(rows):,} examples"]
    parts += [f"{len(tried):,} more for validation"] if tried else []
    parts += [f"{len(examples.too_long):,} more were too long"] if examples.too_long else []
    learned = f"{sum(map(answer_tokens, rows)):,} answer tokens"
    return f"{', '.join(parts)}; {learned}; {steps:,} steps of about {round(tokens / each):,} tokens"


def _where(problem: str, ids: Sequence[str], of: int) -> str:
    return f"{problem} ({len(ids)} of {of} examples, first {one_line(ids[0])})"


def _decoded(template: ChatTemplate, ids: Sequence[int]) -> str:
    text = template.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _bare(text: str) -> str:
    """What every tokenizer keeps of a text: some change case, white space or the form of a character."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
