"""Plan: what a recipe promises and costs, from a few dozen of its training questions, before it is spent.

    {"questions": 24, "base": {"right": 3, "n": 24, "low": 0.04, "high": 0.31}, "teacher": {"right": 22, ...},
     "headroom": 0.79, "kept": {"right": 21, ...}, "statuses": {"correct": 21, "wrong": 2, "bad_step": 1},
     "trace_tokens": [38, 61], "fit_length": {...}, "fit_answer": {...}, "relation": {"kind": "different", ...},
     "gains": 0.4, "losses": 0.01, "held_out": 80, "power": 0.98, "needed": 24, "forecast": {...}, "stop": null}

No held-out question is asked. Records in, a record and sentences out; ``planning`` asks the models.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cotdistill.errors import DataError
from cotdistill.learning.relation import Relation, permitted
from cotdistill.plans.forecast import Forecast, Range, count_text, seconds_text
from cotdistill.power import CLOSED, POWER, expected_changes, needed_questions, power
from cotdistill.question import Question
from cotdistill.run_directory import RunDirectory
from cotdistill.shown import percent
from cotdistill.statistics import paired, percentile, wilson
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict

BASE = "plan/base"
"""The name under which the base answers the sample."""


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``right`` of ``n``, with Wilson's 95 % interval (null for none of none)."""

    right: int
    n: int
    low: float | None
    high: float | None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``questions`` training questions say. Accuracies, headroom and power are null without gold.

    ``base`` is asked as at the evaluation, ``teacher`` as for its traces (worked examples included, first sample);
    both are read leniently. ``kept`` are traces that may teach; of these ``fit_length`` fit as whole
    examples and ``fit_answer`` as answers, both in the student's tokens. ``trace_tokens`` are the median and the 99th
    percentile, in tokens of the teacher. ``stop`` is the reason to go no further; ``cut_off`` is what to do where most
    traces were cut off.
    """

    questions: int
    base: Share | None
    teacher: Share | None
    headroom: float | None
    kept: Share
    statuses: dict[str, int]
    trace_tokens: tuple[int | None, int | None]
    max_length: int
    fit_length: Share
    max_new_tokens: int
    fit_answer: Share
    relation: Relation
    gains: float | None
    losses: float | None
    held_out: int
    power: float | None
    needed: int | None
    forecast: Forecast
    stop: str | None
    cut_off: str | None = None


class Lengths(msgspec.Struct, frozen=True):
    """Examples in the student's tokens: whole, and the answer alone; and the same of their final lines, also as
    ``labels``, with the prompt that asks for no more."""

    examples: Sequence[int]
    answers: Sequence[int]
    final_lines: Sequence[int] = ()
    final_answers: Sequence[int] = ()
    labels: Sequence[int] = ()


def chosen(questions: Sequence[Question], count: int) -> list[Question]:
    """``count`` of the questions, those whose ids hash lowest: no part of the list is preferred, the same are taken
    again, and a larger choice holds a smaller one. In the order of the list."""
    lowest = sorted(questions, key=lambda question: hashlib.sha256(question.id.encode()).digest())[:count]
    ids = {question.id for question in lowest}
    return [question for question in questions if question.id in ids]


def share(right: int, n: int) -> Share:
    return Share(right, n, *(wilson(right, n) if n else (None, None)))


def plan_of(
    *,
    questions: int,
    right: Sequence[tuple[bool, bool]],
    traces: Sequence[Trace],
    verdicts: Sequence[Verdict],
    lengths: Lengths,
    max_length: int,
    max_new_tokens: int,
    longest_trace: int,
    relation: Relation,
    held_out: int,
    forecast: Forecast,
) -> Plan:
    """Put together what was found; ``right`` holds, for each question with gold, whether base and teacher were
    right; ``longest_trace`` is the number of tokens after which a trace is cut off."""
    base, teacher = ([one[i] for one in right] for i in (0, 1))
    gains = losses = needed = reached = headroom = None
    if right:
        headroom = (sum(teacher) - sum(base)) / len(right)
        gains, losses = expected_changes(paired(base, teacher))
        needed, reached = needed_questions(gains, losses), power(held_out, gains, losses)
    written = [trace.completion_tokens for trace in traces if trace.finish != "error"]
    kept = share(sum(verdict.status in TEACHES for verdict in verdicts), len(verdicts))
    fit_length = _within(lengths.examples, max_length)
    stop = _stop(sum(base), sum(teacher), len(right), kept, fit_length)
    cut_off = _cut_off(traces, longest_trace)
    return Plan(
        questions=questions,
        base=share(sum(base), len(right)) if right else None,
        teacher=share(sum(teacher), len(right)) if right else None,
        headroom=headroom,
        kept=kept,
        statuses=dict(Counter(verdict.status for verdict in verdicts).most_common()),
        trace_tokens=(percentile(written, 0.5), percentile(written, 0.99)),
        max_length=max_length,
        fit_length=fit_length,
        max_new_tokens=max_new_tokens,
        fit_answer=_within(lengths.answers, max_new_tokens),
        relation=relation,
        gains=gains,
        losses=losses,
        held_out=held_out,
        power=reached,
        needed=needed,
        forecast=forecast,
        stop="; ".join(filter(None, (stop, cut_off))) if stop else None,
        cut_off=cut_off,
    )


def read_plan(directory: Path) -> Plan:
    """The plan in a run directory. Raises ``DataError`` where it cannot be read."""
    path = RunDirectory(directory).plan
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the plan {path} ({error}); remove it and run cotdistill plan again") from error


def _within(lengths: Sequence[int], most: int) -> Share:
    return share(sum(length <= most for length in lengths), len(lengths))


def _stop(base: int, teacher: int, graded: int, kept: Share, fit: Share) -> str | None:
    """The rule: no trace of the sample may teach, none fits, or the teacher is right no more often than the base."""
    if not kept.right:
        return f"none of the teacher's {kept.n} traces may teach"
    if not fit.right:
        return f"none of the {fit.n} traces that may teach fits into what the student can be trained on"
    if graded and teacher <= base:
        return f"the teacher is not better than the student as it is: {teacher} against {base} of {graded} right"
    return None


def _cut_off(traces: Sequence[Trace], longest: int) -> str | None:
    cut = sum(trace.finish == "length" for trace in traces)
    if 2 * cut <= len(traces):
        return None
    return (
        f"most traces ({cut} of {len(traces)}) were cut off after {longest} tokens: raise "
        "generate.sampling.max_new_tokens (or turn thinking off, where the teacher thinks first)"
    )


def lines(plan: Plan) -> list[str]:
    """The plan in words, a line each."""
    low, high = plan.trace_tokens
    said = [f"asked: {plan.questions} of the training questions"]
    if plan.base and plan.teacher and plan.headroom is not None:
        said += [
            f"base: {_share(plan.base)} right",
            f"teacher: {_share(plan.teacher)} right; headroom {100 * plan.headroom:+.0f} points",
        ]
    else:
        said.append("base and teacher: not graded, the training questions have no gold answers")
    dropped = [f"{count} {name}" for name, count in plan.statuses.items() if name not in TEACHES]
    said += [
        f"traces that may teach: {_share(plan.kept)}" + (f"; dropped: {', '.join(dropped)}" if dropped else ""),
        f"tokens a trace: median {low}, 99th percentile {high}",
        *([plan.cut_off] if plan.cut_off and not plan.stop else []),  # a reason to stop says it, too
        f"of those that may teach, {_share(plan.fit_length)} fit into {plan.max_length} tokens with their prompt, "
        f"{_share(plan.fit_answer)} into the {plan.max_new_tokens} new tokens of the evaluation",
        _relation(plan.relation),
        _detection(plan),
        *_forecast(plan.forecast),
    ]
    return said


def _share(share: Share) -> str:
    if share.low is None or share.high is None:
        return "0 of 0"
    interval = f"[{100 * share.low:.0f}, {100 * share.high:.0f}]"
    return f"{share.right} of {share.n} ({percent(share.right / share.n)} {interval})"


def _relation(relation: Relation) -> str:
    what = {
        "same": f"the same {relation.student} tokens",
        "alignable": f"{relation.shared} ids mean the same in both",
        "different": f"different tokens ({relation.shared} ids mean the same)",
        "unknown": "the teacher's tokens are not known, on_policy and offline_kd need those of the student",
    }[relation.kind]
    return f"vocabulary: {what}; possible objectives: {', '.join(permitted(relation.kind))}"


def _detection(plan: Plan) -> str:
    if plan.gains is None or plan.losses is None or plan.power is None:
        return "held-out questions needed: not known without gold answers to the training questions"
    gain = f"a gain of {100 * (plan.gains - plan.losses):.0f} points ({percent(CLOSED)} of the gap)"
    if plan.needed is None:
        return f"held-out questions needed: no reasonable number would show {gain}"
    return (
        f"held-out questions needed to show {gain} with probability {POWER:g}: {plan.needed}; "
        f"the recipe's {plan.held_out} show it with probability {plan.power:.2f} (exact McNemar test)"
    )


def _forecast(forecast: Forecast) -> list[str]:
    said = [
        f"forecast, {stage.stage}: {seconds_text(stage.seconds)}, {count_text(stage.tokens)} tokens, {stage.rows} rows"
        for stage in forecast.stages
    ]
    money = f", {_money(forecast.money)} for the teacher's server" if forecast.money else ""
    said.append(f"forecast, all: {seconds_text(forecast.seconds)}, {count_text(forecast.tokens)} tokens{money}")
    return [*said, *(f"assumed: {assumption}" for assumption in forecast.assumptions)]


def _money(money: Range) -> str:
    return f"{money.expected:.3g} [{money.low:.3g}, {money.high:.3g}]"
