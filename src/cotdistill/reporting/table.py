"""The report on a terminal: one table, a few lines below it, the verdict last.

    model    right       accuracy  strict  no answer  truncated  tokens  s/question
    student  41/80  51 % [40, 62]    51 %         38          0      30        0.50

Fits 80 columns, is not cut where there are fewer, and needs no terminal. Names come from files, so they are shown as
plain text: no markup is read in them and control characters are written as escapes.
"""

from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cotdistill.plans.forecast import Outcome, compared_text
from cotdistill.report import RIVALS, Comparison, Report
from cotdistill.reporting.ladder_report import HEADINGS, ladder_lines
from cotdistill.reporting.score import CategoryScore, ModelScore
from cotdistill.resampling import Interval
from cotdistill.shown import one_line, percent
from cotdistill.statistics import SIGNIFICANCE, Paired, p_text

MOST_CATEGORIES = 20
FOLDED = 16
"""Characters of a name that are left on one line where there is no room for more."""
LEGEND = (
    "right, accuracy: by the marker, else the last number, choice or word;",
    "strict: by the marker alone; in brackets: the 95 % interval (Wilson).",
)


def print_report(report: Report, console: Console) -> None:
    """Print the held-out table and its lines, the transfer slice where there is one, and the sentence."""
    _print_comparison("Held-out questions", report, console)
    if report.transfer is not None:
        _print_comparison("Unseen generator (no bar, not part of the verdict)", report.transfer, console)
        if said := forgetting(report.transfer):
            say(said, console)
            console.print()
    for line in LEGEND:
        say(line, console, style="dim")
    if (shared := report.details.get("questions", {}).get("shared_ngrams")) is not None:
        say("no held-out or unseen question is a training question; of their runs of eight words "
             f"{100 * shared:.0f} % occur in training", console, style="dim")  # fmt: skip
    console.print()
    if ladder := report.details.get("ladder"):
        _print_ladder(ladder, console)
    if stages := report.details.get("plan", {}).get("stages"):
        say("Forecast, and what it took", console, style="bold")
        show(_forecast_table(msgspec.convert(stages, list[Outcome])), console)
        console.print()
    if report.causes:
        say("Likely causes:", console, style="bold")
        for cause in report.causes:
            say(f"- {cause.sentence}", console)
        console.print()
    say(report.sentence, console, style="bold")


def _print_ladder(details: dict[str, Any], console: Console) -> None:
    """Each training of the ladder, the base first, and why a rung went no further."""
    say("Ladder, on questions set aside from training", console, style="bold")
    table, lines = table_of(*HEADINGS), ladder_lines(details)
    table.add_row("base", f"{details['base']['right']}/{details['base']['n']}")
    for line in lines:
        cells = ["-"] * 6
        if one := line.trial:
            p = bare_p(one.p_value)
            cells = [f"{one.right}/{one.n}", str(one.gained), str(one.lost), p, f"{one.tokens:,}", f"{one.seconds:.0f}"]
        table.add_row(Text(line.name), *cells, line.outcome)
    show(table, console)
    for line in lines:
        if line.said:
            say(f"- {line.said}", console)
    say(details["sentence"], console)
    console.print()


def forgetting(transfer: Comparison) -> str:
    """What training did to questions of another kind, in a sentence; empty where it was not compared."""
    pair, moved = transfer.paired, transfer.difference
    if pair is None or moved is None:
        return ""
    if pair.p_value >= SIGNIFICANCE:
        found = "Neither forgetting nor transfer is shown"
    else:
        found = "Transfer" if pair.only_student > pair.only_base else "Forgetting: training cost the student here"
    return f"{found} ({points(moved)}, {p_text(pair.p_value)})."


def points(moved: Interval, short: bool = False) -> str:
    """``+40.0 points [+27, +51]``, without the word where ``short``."""
    unit = "" if short else " points"
    return f"{_points(moved.estimate)}{unit} [{100 * moved.low:+.0f}, {100 * moved.high:+.0f}]"


def say(line: str, console: Console, style: str = "") -> None:
    """One sentence. In a file or a pipe it stays on one line, for grep."""
    console.print(Text(one_line(line), style=style), soft_wrap=not console.is_terminal)


def _print_comparison(title: str, comparison: Comparison, console: Console) -> None:
    say(title, console, style="bold")
    show(_model_table(comparison.models), console)
    if lines := _lines(comparison):
        console.print()
    for line in lines:
        say(line, console)
    if categories := _category_table(comparison.models):
        console.print()
        show(categories, console)
    console.print()


def _model_table(models: dict[str, ModelScore]) -> Table:
    headings = ("right", "accuracy", "strict", "no\nanswer", "trunc-\nated", "tokens", "s per\nquestion")
    table = table_of("model", *headings)
    for name, score in models.items():
        table.add_row(
            Text(one_line(name)),
            f"{score.correct}/{score.n}" if score.n else "-",
            _interval(score),
            percent(score.accuracy_strict),
            str(score.no_answer),
            str(score.truncated),
            "-" if score.mean_completion_tokens is None else f"{score.mean_completion_tokens:.0f}",
            f"{score.seconds_per_question:.2f}",
        )
    return table


def _category_table(models: dict[str, ModelScore]) -> Table | None:
    """Right answers by category, a column for each model; None where there are not two categories."""
    names = list(next(iter(models.values())).by_category) if models else []
    if len(names) < 2:
        return None
    table = table_of("category", *(one_line(model) for model in models))
    for name in names[:MOST_CATEGORIES]:
        cells = (score.by_category.get(name, CategoryScore(0, 0, None)) for score in models.values())
        table.add_row(
            Text(one_line(name)),
            *(f"{cell.correct}/{cell.n} {percent(cell.accuracy):>5}" if cell.n else "-" for cell in cells),
        )
    if len(names) > MOST_CATEGORIES:
        table.add_row(Text(f"... and {len(names) - MOST_CATEGORIES} more in the JSON report"))
    return table


def _forecast_table(stages: list[Outcome]) -> Table:
    table = table_of("stage", "time, forecast", "taken ", "tokens, forecast", "taken ")
    for stage in stages:
        table.add_row(Text(one_line(stage.stage)), *compared_text(stage))
    return table


def table_of(first: str, *others: str) -> Table:
    """An empty table in our style, the first column left, the others right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(Text(first), overflow="fold")
    for other in others:
        table.add_column(Text(other), justify="right", no_wrap=True)
    return table


def show(table: Table, console: Console) -> None:
    """Print a table whole: on a terminal that is too narrow its lines run over, and only long names are folded."""
    whole = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    names = max(Measurement.get(console, console.options, cell).maximum for cell in table.columns[0].cells)
    before = console.width
    try:
        console.width = max(before, whole - max(0, names - FOLDED))
        console.print(table)
    finally:
        console.width = before


def _interval(score: ModelScore) -> str:
    if score.accuracy is None or score.ci_low is None or score.ci_high is None:
        return "-"
    return f"{percent(score.accuracy)} [{100 * score.ci_low:.0f}, {100 * score.ci_high:.0f}]"


def _lines(comparison: Comparison) -> list[str]:
    """What the columns cannot hold, one sentence a line, only what there is."""
    models = comparison.models
    lines = []
    failed = [f"{name} {score.errors}" for name, score in models.items() if score.errors]
    if failed:
        lines.append(f"failed, counted as wrong: {', '.join(failed)}")
    run_on = [f"{name} {score.run_on}" for name, score in models.items() if score.run_on]
    if run_on:
        lines.append(f"went on after the answer: {', '.join(run_on)}")
    speeds = [f"{name} {score.tokens_per_second:.0f}" for name, score in models.items() if score.tokens_per_second]
    if speeds:
        lines.append(f"tokens per second: {', '.join(speeds)}")
    for name, score in models.items():
        if score.pass_at:
            curve = ", ".join(f"pass@{k} {percent(share)}" for k, share in score.pass_at.items())
            lines.append(f"{name}, {score.samples} samples: {curve}, maj@{score.samples} {percent(score.majority)}")
    ungraded = max((score.ungraded for score in models.values()), default=0)
    if ungraded:
        lines.append(f"without a gold answer, so not in the accuracy: {ungraded} questions")
    if comparison.paired is not None:
        lines.append(f"student against base: {_pair(comparison.paired)}")
    if comparison.paired_strict is not None:
        lines.append(f"the same read strictly: {_pair(comparison.paired_strict)}")
    if comparison.difference is not None:
        lines.append(f"difference: {points(comparison.difference)} (paired bootstrap, 95 %)")
    lines += [
        f"student against {rival}: {_pair(comparison.against[name])}"
        for name, rival in RIVALS.items() if name in comparison.against
    ]  # fmt: skip
    if comparison.gain is not None:
        gain = comparison.gain
        lines.append(
            f"strict gain {_points(gain.total_strict)} = reasoning {_points(gain.reasoning_lenient)}"
            f", format {_points(gain.format)} (percentage points)"
        )
    if comparison.reasoning_worth is not None:
        lines.append(f"what the reasoning is worth, beyond learning the answers: {points(comparison.reasoning_worth)}")
    if comparison.gap_closed is not None:
        lines.append(f"gap to the teacher closed: {percent(comparison.gap_closed)}{_shares(comparison.gap_interval)}")
    if comparison.chance_rate is not None:
        lines.append(f"chance rate (right by guessing): {percent(comparison.chance_rate)}")
    return lines


def bare_p(value: float) -> str:
    """``0.012`` or ``< 1e-12``, for a column that is called p."""
    return p_text(value).removeprefix("p = ").removeprefix("p ")


def _pair(pair: Paired) -> str:
    return (
        f"{pair.only_student} gained, {pair.only_base} lost, {pair.both} both right, {pair.neither} "
        f"neither; {p_text(pair.p_value)}"
    )


def _shares(interval: Interval | None) -> str:
    return f" [{100 * interval.low:.0f}, {100 * interval.high:.0f}]" if interval else ""


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
