"""Chart: figures as numbers, for the template to draw.

    histogram({"base": [22, 96], "student": [28, 30]}, limit=96) -> 24 bars each, 0..96 tokens, the same scale

Widths and places across are percent of the figure (0..100), so that a figure fits a phone and its text keeps its
size; heights are pixels. Pure: no markup here, and no text of a model.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from cotdistill.statistics import Paired

BINS = 24
FLOW_HEIGHT = 220
FLOW_GAP = 14
"""Pixels between the two blocks of a side: what is right above, what is wrong below."""
LABEL_HEIGHT = 17
LINE_HEIGHT = 160
HISTOGRAM_HEIGHT = 72
MOST_POINTS = 400
"""A curve of more is drawn through every nth of them."""


class Band(msgspec.Struct, frozen=True):
    """One stream of a flow: ``path`` in a box 100 wide and ``FLOW_HEIGHT`` high, its label at height ``label``."""

    name: str
    count: int
    path: str
    label: float


class Side(msgspec.Struct, frozen=True):
    """One block of a flow, what a model had right or wrong."""

    name: str
    count: int
    top: float
    height: float
    label: float


class Flow(msgspec.Struct, frozen=True):
    """How the questions went from the base's side to the student's."""

    height: int
    before: tuple[Side, Side]
    after: tuple[Side, Side]
    bands: tuple[Band, ...]


class Tick(msgspec.Struct, frozen=True):
    """A labelled place on an axis."""

    at: float
    text: str


class Curve(msgspec.Struct, frozen=True):
    """One more curve in the box of a ``Line``: ``points`` for a polyline, ``places`` across and down for dots."""

    name: str
    points: str
    places: tuple[tuple[float, float], ...]
    last: float


class Line(msgspec.Struct, frozen=True):
    """A curve: ``points`` for a polyline in a box 100 wide and ``height`` high. ``terms`` are those of the loss, where
    it has several; ``tried`` is the same loss on questions that are not trained on, and ``best`` where it is lowest."""

    height: int
    points: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    first: float
    last: float
    terms: tuple[Curve, ...] = ()
    tried: Curve | None = None
    best: tuple[float, float] | None = None


class Bar(msgspec.Struct, frozen=True):
    """One bar of a histogram; ``cut`` pixels of its ``height`` are answers that ran into the limit."""

    at: float
    width: float
    height: float
    cut: float


class Histogram(msgspec.Struct, frozen=True):
    """Answers of one model by their length; ``middle`` is the median."""

    name: str
    bars: tuple[Bar, ...]
    middle: int
    longest: int
    n: int
    cut: int


def flow(pair: Paired) -> Flow:
    """Base to student: right stays right, gained, lost, and wrong stays wrong."""
    total = max(1, pair.n)
    scale = (FLOW_HEIGHT - FLOW_GAP) / total
    before = _sides(pair.both + pair.only_base, pair.only_student + pair.neither, scale)
    after = _sides(pair.both + pair.only_student, pair.only_base + pair.neither, scale)
    wrong_before, wrong_after = before[1].top, after[1].top
    # (name, count, top on the left, top on the right); on the right what stayed comes first above, last below
    streams = (
        ("both", pair.both, 0.0, 0.0),
        ("lost", pair.only_base, pair.both * scale, wrong_after),
        ("gained", pair.only_student, wrong_before, pair.both * scale),
        ("neither", pair.neither, wrong_before + pair.only_student * scale, wrong_after + pair.only_base * scale),
    )
    there = [stream for stream in streams if stream[1]]
    there.sort(key=lambda stream: stream[3])
    labels = spread([right + count * scale / 2 for _, count, _, right in there], LABEL_HEIGHT, FLOW_HEIGHT)
    bands = {
        name: Band(name, count, _stream(left, right, count * scale), label)
        for (name, count, left, right), label in zip(there, labels, strict=True)
    }
    order = ("neither", "both", "gained", "lost")  # drawn last, seen best
    return Flow(FLOW_HEIGHT, before, after, tuple(bands[name] for name in order if name in bands))


def _sides(right: int, wrong: int, scale: float) -> tuple[Side, Side]:
    top = right * scale + FLOW_GAP
    labels = spread([right * scale / 2, top + wrong * scale / 2], LABEL_HEIGHT, FLOW_HEIGHT)
    return (
        Side("right", right, 0.0, _round(right * scale), labels[0]),
        Side("wrong", wrong, _round(top), _round(wrong * scale), labels[1]),
    )


def _stream(left: float, right: float, height: float) -> str:
    a, b, c, d = (_round(y) for y in (left, right, right + height, left + height))
    return f"M0 {a}C50 {a} 50 {b} 100 {b}L100 {c}C50 {c} 50 {d} 0 {d}Z"


def spread(places: Sequence[float], apart: float, end: float) -> list[float]:
    """Move ascending places as little as needed so that neighbours are ``apart`` and all lie in ``0..end``."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + apart if moved else apart / 2))
    limit = end - apart / 2
    for at in range(len(moved) - 1, -1, -1):
        moved[at] = _round(min(moved[at], limit))
        limit = moved[at] - apart
    return moved


Steps = Sequence[tuple[int, float]]
"""(optimizer step, value)."""


def line(
    values: Steps, *, terms: Mapping[str, Steps] | None = None, tried: Steps = (),
    best: int | None = None,
) -> Line | None:  # fmt: skip
    """The loss over the steps, from 0 up; of many points every nth and the last. None for fewer than two. ``best`` is
    a step of ``tried``."""
    if len(values) < 2:
        return None
    first, last = values[0][0], values[-1][0]
    others = {name: _thinned(found) for name, found in (terms or {}).items() if len(found) > 1}
    kept = _thinned(values)
    top = _round_up(max(value for found in (kept, tried, *others.values()) for _, value in found))

    def places(found: Steps) -> tuple[tuple[float, float], ...]:
        return tuple((_across(step, first, last), _round(LINE_HEIGHT * (1 - value / top))) for step, value in found)

    def curve(name: str, found: Steps) -> Curve:
        return Curve(name, _polyline(places(found)), places(found), found[-1][1])

    middle = (first + last) // 2
    return Line(
        LINE_HEIGHT,
        _polyline(places(kept)),
        tuple(Tick(_across(at, first, last), str(at)) for at in (first, middle, last)),
        tuple(Tick(_round(LINE_HEIGHT * (1 - share)), f"{top * share:g}") for share in (0.5, 1.0)),
        kept[0][1],
        kept[-1][1],
        tuple(curve(name, found) for name, found in others.items()),
        curve("tried", tried) if tried else None,
        next(iter(places([(step, value) for step, value in tried if step == best])), None),
    )


def _thinned(values: Steps) -> list[tuple[int, float]]:
    every = -(-len(values) // MOST_POINTS)
    return [*values[::every], *([values[-1]] if (len(values) - 1) % every else [])]


def _across(step: int, first: int, last: int) -> float:
    return _round(100 * (step - first) / max(1, last - first))


def _polyline(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across},{down}" for across, down in places)


def histograms(lengths: Mapping[str, Sequence[tuple[int, bool]]], limit: int) -> tuple[list[Histogram], list[Tick]]:
    """For each model its answers, as ``(tokens, whether it was cut)``, in bins up to ``limit``, all on one scale;
    and the axis below them."""
    top = max([limit, *(tokens for rows in lengths.values() for tokens, _ in rows)])
    counts: dict[str, list[list[int]]] = {}
    for name, rows in lengths.items():
        bins = counts[name] = [[0, 0] for _ in range(BINS)]
        for tokens, cut in rows:
            bins[min(BINS - 1, tokens * BINS // (top + 1))][cut] += 1
    most = max([1, *(sum(both) for bins in counts.values() for both in bins)])
    scale, width = HISTOGRAM_HEIGHT / most, 100 / BINS
    made = []
    for name, rows in lengths.items():
        ordered = sorted(tokens for tokens, _ in rows)
        middle = ordered[len(ordered) // 2] if ordered else 0
        bars = tuple(
            Bar(_round(at * width), _round(width * 0.86), _round((whole + cut) * scale), _round(cut * scale))
            for at, (whole, cut) in enumerate(counts[name])
            if whole or cut
        )
        longest = ordered[-1] if ordered else 0
        made.append(Histogram(name, bars, middle, longest, len(rows), sum(cut for _, cut in rows)))
    return made, [Tick(0, "0"), Tick(50, str(top // 2)), Tick(100, str(top))]


def _round(value: float) -> float:
    return round(value, 2)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.ceil(math.log10(max(value, 1e-9)))
    return next((power * part for part in (0.2, 0.25, 0.5) if power * part >= value), power)
