"""Forecast: tokens, time and money of a whole recipe, from what a sample of it took. Pure.

    {"stage": "generate", "rows": 500, "tokens": {"expected": 151000, "low": 146000, "high": 156000},
     "seconds": {"expected": 1210, "low": 820, "high": 1870}, "money": null}

A range is the 95 % interval of the mean tokens of a row (normal approximation), and for time also what speed may do
when batches are full, or the machine is shared: ``SPEED``. Loading models is not in it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cotdistill.engines.server import Server
from cotdistill.statistics import Z

SPEED = (0.7, 1.5)
"""Time against the sample's, for the same tokens."""

TRAINING = (1.5, 2.0, 4.0)
"""Time of a training step against that of the forward pass alone: low, expected, high. The backward pass takes about
twice the forward pass (Kaplan et al. 2020), less what frozen weights spare, more for the loss and padding."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An expected value and its bounds."""

    expected: float
    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.expected + other.expected, self.low + other.low, self.high + other.high)

    def times(self, factor: "Range | float") -> "Range":
        by = factor if isinstance(factor, Range) else Range(factor, factor, factor)
        return Range(self.expected * by.expected, self.low * by.low, self.high * by.high)


NOTHING = Range(0.0, 0.0, 0.0)


class Work(msgspec.Struct, frozen=True):
    """A stage that answers ``rows`` questions like those of a sample, whose ``prompts`` and ``answers`` are in tokens.

    ``pace`` is the seconds for each token of an answer: the time of a batch by the tokens of all its answers.
    """

    stage: str
    rows: int
    prompts: Sequence[int]
    answers: Sequence[int]
    pace: float


class Training(msgspec.Struct, frozen=True):
    """``epochs`` over as many examples as ``rows`` says, of ``lengths`` tokens in the sample; ``pace`` is seconds of
    a forward pass for each token. ``more`` are seconds in which the student writes, or its teacher reads."""

    rows: Range
    epochs: float
    lengths: Sequence[int]
    pace: float
    stage: str = "train"
    more: Range = NOTHING


class Climbing(msgspec.Struct, frozen=True):
    """A ladder: all ``short`` trainings and ``most`` of the ``full`` ones (fewer where fewer survive), each ``asked``
    the dev questions, as the base is; ``own`` are the student's own samples."""

    short: Sequence[Training]
    full: Sequence[Training]
    most: int
    asked: Work
    own: Sequence[Work]
    stage: str = "ladder"


Task = Work | Training | Climbing


class StageForecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage, by its name in the manifest. ``tokens`` are read and written ones, or those trained on."""

    stage: str
    rows: int
    tokens: Range
    seconds: Range
    money: Range | None = None


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stages in their order, and their sums (of the ends, too, which makes a wide range). ``assumptions`` stand in
    for what was not measured."""

    stages: list[StageForecast]
    tokens: Range
    seconds: Range
    money: Range | None
    assumptions: list[str] = []


def forecast(tasks: Sequence[Task], server: Server | None, assumptions: Sequence[str] = ()) -> Forecast:
    """All stages, in their order. A ``server`` has the teacher, and the prices."""
    stages = [_stage(task, server) for task in tasks]
    money = [stage.money for stage in stages if stage.money]
    return Forecast(
        stages=stages,
        tokens=sum((stage.tokens for stage in stages), NOTHING),
        seconds=sum((stage.seconds for stage in stages), NOTHING),
        money=sum(money, NOTHING) if money else None,
        assumptions=list(assumptions),
    )


def _stage(task: Task, server: Server | None) -> StageForecast:
    match task:
        case Work():
            return _answering(task, server)
        case Training():
            return _training(task)
        case Climbing():
            return _climbing(task)


def mean(values: Sequence[float]) -> Range:
    """The mean and its 95 % interval; for a single value from half of it to twice it. 0 for none."""
    if not values:
        return NOTHING
    middle = sum(values) / len(values)
    if len(values) == 1:
        return Range(middle, middle / 2, middle * 2)
    variance = sum((value - middle) ** 2 for value in values) / (len(values) - 1)
    half = Z * math.sqrt(variance / len(values))
    return Range(middle, max(0.0, middle - half), middle + half)


def _answering(work: Work, server: Server | None) -> StageForecast:
    prompts, answers = mean(work.prompts).times(work.rows), mean(work.answers).times(work.rows)
    money = None
    if server and work.stage.rpartition("/")[2] in ("generate", "teacher"):
        ends = zip(msgspec.structs.astuple(prompts), msgspec.structs.astuple(answers), strict=True)
        spent = [server.money(round(prompt), round(answer)) for prompt, answer in ends]
        money = Range(*[end for end in spent if end is not None]) if None not in spent else None
    slow = Range(work.pace, work.pace * SPEED[0], work.pace * SPEED[1])
    return StageForecast(work.stage, work.rows, prompts + answers, answers.times(slow), money)


def _training(training: Training) -> StageForecast:
    tokens = mean(training.lengths).times(training.rows).times(training.epochs)
    low, expected, high = (training.pace * factor for factor in TRAINING)
    seconds = tokens.times(Range(expected, low * SPEED[0], high * SPEED[1]))
    more = training.more.times(Range(1.0, *SPEED))
    return StageForecast(training.stage, round(training.rows.expected), tokens, seconds + more)


def _climbing(ladder: Climbing) -> StageForecast:
    short, full = ([_training(one) for one in trainings] for trainings in (ladder.short, ladder.full))
    asked = _answering(ladder.asked, None)
    count = min(ladder.most, len(full))
    fewest = count if not short else 0
    rows = sum(one.rows for one in short) + round(count * sum(one.rows for one in full) / max(1, len(full)))

    def all_of(pick: Callable[[StageForecast], Range]) -> Range:
        fulls = [pick(one) for one in full]
        whole = Range(
            count * sum(one.expected for one in fulls) / max(1, len(fulls)),
            sum(sorted(one.low for one in fulls)[:fewest]),
            sum(sorted((one.high for one in fulls), reverse=True)[:count]),
        )
        times = Range(*(1.0 + len(short) + extra for extra in (count, fewest, count)))
        own = [pick(_answering(one, None)) for one in ladder.own]
        return sum([*map(pick, short), whole, pick(asked).times(times), *own], NOTHING)

    return StageForecast(ladder.stage, rows, all_of(lambda one: one.tokens), all_of(lambda one: one.seconds))


class Outcome(msgspec.Struct, frozen=True):
    """A stage as it was forecast, and what it then took."""

    stage: str
    seconds: Range
    took_seconds: float
    tokens: Range
    took_tokens: int


def compared(forecast: Forecast, took: Mapping[str, tuple[float, int]]) -> list[Outcome]:
    """The stages that took anything, with their seconds and tokens."""
    return [
        Outcome(one.stage, one.seconds, took[one.stage][0], one.tokens, took[one.stage][1])
        for one in forecast.stages
        if one.stage in took
    ]


def seconds_text(seconds: Range) -> str:
    """``2.5 min [1.7, 4.1]``."""
    size, unit = _unit(seconds.expected)
    return f"{seconds.expected / size:.1f} {unit} [{seconds.low / size:.1f}, {seconds.high / size:.1f}]"


def compared_text(outcome: Outcome) -> list[str]:
    """Time as forecast and as taken, in one unit, then tokens: ``1.7–4.1 min``, ``3.0 min``, ``7,560–9,240``,
    ``8,442``. ``*`` marks what lies outside."""
    size, unit = _unit(outcome.seconds.expected)
    return [
        f"{outcome.seconds.low / size:.1f}–{outcome.seconds.high / size:.1f} {unit}",
        f"{outcome.took_seconds / size:.1f} {unit}{_outside(outcome.took_seconds, outcome.seconds)}",
        f"{outcome.tokens.low:,.0f}–{outcome.tokens.high:,.0f}",
        f"{outcome.took_tokens:,}{_outside(outcome.took_tokens, outcome.tokens)}",
    ]


def _outside(taken: float, forecast: Range) -> str:
    return " " if forecast.low <= taken <= forecast.high else "*"


def count_text(tokens: Range) -> str:
    return f"{tokens.expected:,.0f} [{tokens.low:,.0f}, {tokens.high:,.0f}]"


def _unit(seconds: float) -> tuple[int, str]:
    return next((found for found in ((3600, "h"), (60, "min")) if seconds >= found[0]), (1, "s"))
