"""Tabular: the table of a report for a document or a spreadsheet.

    | model | right | accuracy | 95 % interval | strict | no answer | truncated | tokens | s per question |
    |---|--:|--:|--:|--:|--:|--:|--:|--:|
    | student | 41/80 | 51 % | 40–62 % | 51 % | 38 | 0 | 30 | 0.50 |

Markdown and LaTeX show what the terminal shows; CSV has every number of every model, shares as 0..1.
"""

import csv
import io
import re
from collections.abc import Iterator

import msgspec

from cotdistill.report import Comparison, Report
from cotdistill.reporting.score import ModelScore
from cotdistill.shown import TableFormat, one_line, percent

HEADINGS = (
    "model", "right", "accuracy", "95 % interval", "strict", "no answer", "truncated", "tokens", "s per question",
)  # fmt: skip
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def tabular(report: Report, form: TableFormat) -> str:
    """The models of a report, those on the unseen slice below."""
    match form:
        case "markdown":
            return "\n\n".join(f"**{title}**\n\n{markdown(part)}" for title, part in _parts(report))
        case "csv":
            return _csv(report)
        case "latex":
            return "\n\n".join(f"% {title}\n{_latex(part)}" for title, part in _parts(report))
    raise ValueError(f"no table in the form {form!r}")


def markdown(comparison: Comparison) -> str:
    """One comparison as a Markdown table."""
    lines = [list(HEADINGS), ["---", *["--:"] * (len(HEADINGS) - 1)], *cells(comparison)]
    escaped = [[re.sub(r"([\\|`*_<\[])", r"\\\1", cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def cells(comparison: Comparison) -> list[list[str]]:
    """A line of text for each model, under ``HEADINGS``."""
    return [[one_line(name), *_cells(score)] for name, score in comparison.models.items()]


def interval(score: ModelScore) -> str:
    """``40–62 %``."""
    if score.ci_low is None or score.ci_high is None:
        return "-"
    return f"{100 * score.ci_low:.0f}–{100 * score.ci_high:.0f} %"


def _cells(score: ModelScore) -> list[str]:
    return [
        f"{score.correct}/{score.n}" if score.n else "-",
        percent(score.accuracy),
        interval(score),
        percent(score.accuracy_strict),
        str(score.no_answer),
        str(score.truncated),
        "-" if score.mean_completion_tokens is None else f"{score.mean_completion_tokens:.0f}",
        f"{score.seconds_per_question:.2f}",
    ]


def _parts(report: Report) -> Iterator[tuple[str, Comparison]]:
    yield "Held-out questions", report
    if report.transfer is not None:
        yield "Unseen generator", report.transfer


def _csv(report: Report) -> str:
    fields = [name for name in ModelScore.__struct_fields__ if name not in ("by_category", "pass_at")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["questions", "model", *fields])
    for title, part in _parts(report):
        for name, score in part.models.items():
            values = msgspec.structs.asdict(score)
            cells = ("" if values[field] is None else values[field] for field in fields)
            writer.writerow([title, one_line(name), *cells])
    return text.getvalue().rstrip("\n")


def _latex(comparison: Comparison) -> str:
    body = [[_latex_text(cell) for cell in line] for line in (list(HEADINGS), *cells(comparison))]
    lines = [" & ".join(line) + r" \\" for line in body]
    columns = "l" + "r" * (len(HEADINGS) - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
         r"\end{tabular}"]
    )  # fmt: skip


def _latex_text(text: str) -> str:
    escaped = re.sub(r"[\\~^]|[&%$#_{}]", lambda found: _LATEX.get(found[0], "\\" + found[0]), text)
    return escaped.replace("–", "--")
