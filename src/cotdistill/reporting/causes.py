"""Causes: why a student may be no better than its base, as far as the data of a run shows it.

    {"name": "truncation", "sentence": "31 of 80 answers of the student ran into the limit of 96 tokens: raise ..."}

Each cause has a bar that a sound run clears, its numbers, and what to try. They are likely causes and no proof:
nothing is trained again to test them. Pure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cotdistill.reporting.score import ModelScore
from cotdistill.statistics import Decision, Paired, approximate_needed_questions

NOTABLE = 0.05
"""The share of answers or traces from which on a fault is named."""
FEW_EXAMPLES = 100
FEW_STEPS = 50
LOW_YIELD = 0.5
HIGH_BASE = 0.9
FALL = 0.1
"""The loss has fallen where its last fifth is on average at least this share below its first."""


class Cause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One likely cause, with its numbers and what to do about it."""

    name: str
    sentence: str


class Evidence(msgspec.Struct, frozen=True):
    """What a run's own files say beside its answers. ``longer`` are teaching traces of more than ``max_new_tokens``
    tokens (the teacher's count), ``too_long`` the examples that did not fit into ``max_length``."""

    max_new_tokens: int
    max_length: int
    traces: int
    teach: int
    dropped: Mapping[str, int]
    longer: int
    examples: int
    too_long: int
    steps: int
    losses: Sequence[float]


def likely_causes(
    models: Mapping[str, ModelScore], pair: Paired | None, verdict: Decision | None, evidence: Evidence | None = None
) -> list[Cause]:
    """The causes that the data shows, the models' own first; empty where the student is better or not compared.
    Without ``evidence`` only those that answers alone show."""
    if pair is None or verdict in (None, "better"):
        return []
    found = [*_of_answers(models, evidence)]
    if evidence is not None:
        found += [*_of_traces(evidence), *_of_training(evidence)]
    if verdict == "not_shown":
        found += _of_numbers(pair)
    return found


def _of_answers(models: Mapping[str, ModelScore], evidence: Evidence | None) -> Iterator[Cause]:
    base, student, teacher = models["base"], models["student"], models.get("teacher")
    asked = student.n + student.ungraded
    if teacher is not None and teacher.correct <= base.correct:
        yield Cause(
            "teacher_not_better",
            f"the teacher answers {teacher.correct} of {teacher.n}, the base {base.correct}: asked like this it has "
            "nothing to teach; give it worked examples (generate.few_shot), or take a stronger one",
        )
    if base.accuracy is not None and base.accuracy >= HIGH_BASE:
        yield Cause("no_headroom", f"the base already answers {base.correct} of {base.n}: take harder questions")
    if student.truncated >= max(1.0, NOTABLE * asked):
        limit = f" of {evidence.max_new_tokens} tokens" if evidence else ""
        yield Cause(
            "truncation",
            f"{student.truncated} of {asked} answers of the student ran into the limit{limit}: raise max_new_tokens, "
            "or teach shorter traces (verify.max_words)",
        )
    if student.run_on >= max(1.0, NOTABLE * asked):
        yield Cause(
            "run_on",
            f"{student.run_on} of {asked} answers of the student went on after the answer was given: it has not "
            "learned where to stop; train longer, or check that its chat template is the one it is asked with",
        )
    unformed = max(0, student.correct - student.correct_strict)
    if student.no_answer + unformed >= max(1.0, NOTABLE * asked):
        faults = (f"{student.no_answer} give no answer", f"{unformed} the right one without the line that marks it")
        said = " and ".join(fault for fault in faults if not fault.startswith("0 "))
        yield Cause(
            "format",
            f"of {asked} answers of the student {said}: the form was not learned; train longer or at a higher learning "
            "rate",
        )
    if student.errors:
        yield Cause("errors", f"{student.errors} of {asked} questions to the student failed: read their rows")


def _of_traces(evidence: Evidence) -> Iterator[Cause]:
    traces, teach, dropped = evidence.traces, evidence.teach, evidence.dropped
    if traces and teach < LOW_YIELD * traces:
        reasons = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in dropped.items())
        yield Cause(
            "low_yield",
            f"only {teach} of {traces} traces may teach ({reasons}): give the teacher worked examples, or draw several "
            "traces a question (generate.num_samples)",
        )
    if evidence.longer >= max(1.0, NOTABLE * teach):
        yield Cause(
            "long_traces",
            f"{evidence.longer} of {teach} traces that taught are longer than the {evidence.max_new_tokens} tokens the "
            "student may write: raise evaluate.max_new_tokens, or teach shorter traces (verify.max_words)",
        )


def _of_training(evidence: Evidence) -> Iterator[Cause]:
    made = evidence.examples + evidence.too_long
    if evidence.too_long >= max(1.0, NOTABLE * made):
        yield Cause(
            "too_long_to_train",
            f"{evidence.too_long} of {made} examples exceed {evidence.max_length} tokens and were left out: raise "
            "train.max_length where the student's context allows it, or teach shorter traces",
        )
    if evidence.examples < FEW_EXAMPLES:
        yield Cause("few_traces", f"only {evidence.examples} examples were trained on: ask the teacher more questions")
    if evidence.steps < FEW_STEPS:
        yield Cause(
            "few_steps",
            f"only {evidence.steps} optimizer steps were made: more epochs, a smaller batch, or more examples",
        )
    losses = [loss for loss in evidence.losses if math.isfinite(loss)]
    if len(losses) >= 5:
        fifth = len(losses) // 5
        first, last = sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth
        if last > (1 - FALL) * first:
            yield Cause(
                "loss_not_falling",
                f"the training loss went from {first:.3g} to {last:.3g}: try another learning rate, and read a few "
                "traces in 4_examples.jsonl",
            )


def _of_numbers(pair: Paired) -> list[Cause]:
    """Where the student is ahead, how many questions it would take to show it."""
    n = pair.n
    needed = approximate_needed_questions(pair.only_student / n, pair.only_base / n)
    if pair.only_student <= pair.only_base or needed is None or needed <= n:
        return []
    return [
        Cause(
            "few_questions",
            f"{pair.only_student} gained and {pair.only_base} lost of {n} may be chance: if it is not, about {needed} "
            "held-out questions would show it in 8 of 10 tries; make new ones, and decide on those alone",
        )
    ]
