"""Page: ``7_report.html``, a run on one page that loads nothing.

Everything a reader needs is in the file: style, script, figures, and the rows of the questions, compressed. What
does not fit into ``MOST_INLINE`` is in ``7_report_rows_N.js`` beside it, which the page finds by itself, and says so
where it does not. Text of models and of users reaches the page through Jinja's escaping or, in the rows, as
compressed data that the script puts in as text; a content security policy forbids every other script.
"""

import math
from collections import Counter
from itertools import chain, islice
from typing import Any

import msgspec
from markupsafe import Markup

from cotdistill.answer_only import STAGE as ANSWER_ONLY_STAGE
from cotdistill.plans.forecast import Range
from cotdistill.recipe import to_yaml
from cotdistill.report import RIVALS, Report
from cotdistill.reporting import browse, chart
from cotdistill.reporting.ladder_report import ladder_lines
from cotdistill.reporting.markup import environment, policy, source
from cotdistill.reporting.model_card import shareable
from cotdistill.reporting.run_files import RunFiles
from cotdistill.reporting.table import forgetting
from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.shown import span
from cotdistill.stages.likelihoods import STAGE as LIKELIHOODS
from cotdistill.stages.self_samples import STAGE as OWN_SAMPLES
from cotdistill.verdict import TEACHES

ROWS = "7_report_rows_{}.js"
MOST_INLINE = 1_500_000
"""Characters of packed rows in the page; with everything else it stays under 2 MB."""

MOST_TRACES = 5_000
"""Traces on the page, the first ones; it says how many are left out."""


TERMS = {
    "label": "answers alone", "rationale": "reasoning", "nll": "tokens of the traces",
    "kl": "distance to the teacher", "traces": "on the teacher’s traces", "samples": "on the student’s own answers",
}  # fmt: skip
"""The terms of a loss, as a reader may know them."""


class Page(msgspec.Struct, frozen=True):
    """The page, and the files beside it by name (none but for a large run)."""

    html: str
    rows: dict[str, str]


class Cost(msgspec.Struct, frozen=True):
    """What one stage took; None where it is not on record."""

    stage: str
    rows: int | None
    read: int | None
    written: int | None
    seconds: float | None
    forecast: Range | None = None


def render(run: RunFiles, report: Report) -> Page:
    """The page of a run. Pure: everything comes from the two values."""
    rows = chain(
        browse.question_rows("held_out", run.held_out, run.predictions),
        browse.question_rows("unseen", run.unseen, run.unseen_predictions) if run.unseen_predictions else (),
        islice(browse.trace_rows(run.train, run.traces, run.verdicts), MOST_TRACES),
    )
    packed = list(browse.pack(rows))
    inline, space = [], MOST_INLINE
    while packed and len(packed[0]) <= space:
        space -= len(packed[0])
        inline.append(packed.pop(0))
    beside: dict[str, str] = {}
    while packed:  # each page is let go as it is wrapped: of a million traces two copies would not fit
        beside[ROWS.format(len(beside) + 2)] = f'cotdistillRows("{packed.pop(0)}");\n'
    templates = environment()
    templates.filters.update(duration=_duration, number=_number)
    style, script = (source(templates, name) for name in ("report.css", "report.js"))
    html = templates.get_template("report.html.j2").render(
        report=report,
        run=run,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script, bool(beside)),
        inline=inline,
        beside=list(beside),
        **_figures(run, report),
    )
    return Page(html, beside)


def _figures(run: RunFiles, report: Report) -> dict[str, Any]:
    limit = run.recipe.evaluate.max_new_tokens
    lengths = {
        name: [(row.completion_tokens, row.finish == "length") for row in rows if row.finish != "error"]
        for name, rows in run.predictions.items()
    }
    histograms, tokens_axis = chart.histograms(lengths, limit)
    statuses = Counter(verdict.status for verdict in run.verdicts)
    train = run.manifest.facts("train")
    best = train.get("best_step")
    models = run.recipe.models
    return {
        "flow": chart.flow(report.paired) if report.paired else None,
        "loss": chart.line(
            _finite(train.get("losses")),
            terms={TERMS.get(name, name): _finite(found) for name, found in _mapping(train.get("terms")).items()},
            tried=_finite(train.get("validation")), best=best if isinstance(best, int) else None,
        ),
        "rivals": RIVALS,
        "histograms": histograms,
        "tokens_axis": tokens_axis,
        "forgetting": forgetting(report.transfer) if report.transfer else "",
        "limit": limit,
        "limit_at": 100 * (limit + 0.5) / (max([limit, *(item.longest for item in histograms)]) + 1),
        "traces": statuses.total(),
        "traces_left": max(0, statuses.total() - MOST_TRACES),
        "taught": {status: count for status, count in statuses.most_common() if status in TEACHES},
        "dropped": {status: count for status, count in statuses.most_common() if status not in TEACHES},
        "train": train,
        "costs": _costs(run, report),
        "money": run.manifest.facts("generate").get("money"),
        "student": shareable(models.student),
        "teacher": shareable(models.teacher),
        "recipe": to_yaml(shareable(msgspec.to_builtins(run.recipe))),
        "revision": run.manifest.noted("git_revision"),
        "seed": run.recipe.train.seed,
        "ladder_lines": ladder_lines(report.details["ladder"]) if "ladder" in report.details else [],
    }


def _finite(steps: Any) -> list[tuple[int, float]]:
    """(step, value) of a record, without the values that are none."""
    found = msgspec.convert(steps or [], list[tuple[int, float | None]])
    return [(step, value) for step, value in found if value is not None and math.isfinite(value)]


def _mapping(plain: Any) -> dict[str, Any]:
    return plain if isinstance(plain, dict) else {}


def _costs(run: RunFiles, report: Report) -> list[Cost]:
    """The stages that took time, in their order, with what the plan said they would take."""
    planned = report.details.get("plan", {}).get("stages", [])
    said = {stage["stage"]: msgspec.convert(stage["seconds"], Range) for stage in planned}
    facts = run.manifest.facts("generate")
    read, written = facts.get("prompt_tokens"), facts.get("completion_tokens")
    costs = [_cost("teacher’s traces", facts, read, written, said.get("generate"))]
    facts = run.manifest.facts(LIKELIHOODS)
    costs.append(_cost("likelihood of the traces", facts, facts.get("tokens"), None, None))
    if ladder := report.details.get("ladder"):  # its student's samples and training are in it
        costs.append(_cost("every rung of the ladder", ladder, ladder["tokens"], None, said.get("ladder")))
    else:
        facts = run.manifest.facts(OWN_SAMPLES)
        read, written = facts.get("prompt_tokens"), facts.get("completion_tokens")
        costs.append(_cost("student’s own samples", facts, read, written, said.get(OWN_SAMPLES)))
    trained = {} if ladder else {"train": "training"}
    trained |= {ANSWER_ONLY_STAGE: "training on answers alone"} if ANSWER_ONLY in run.predictions else {}
    for stage, title in trained.items():
        facts = {**run.manifest.facts(stage), "rows": run.manifest.facts(stage).get("examples")}
        costs.append(_cost(title, facts, facts.get("tokens"), None, said.get(stage)))
    for part, answered in (("", run.predictions), ("unseen/", run.unseen_predictions)):
        for name, rows in answered.items():
            read, written = (sum(getattr(row, f"{kind}_tokens") for row in rows) for kind in ("prompt", "completion"))
            of = "answers, other kind" if part else "answers"
            stage = f"evaluate/{part}{name}"
            costs.append(_cost(f"{name}’s {of}", run.manifest.facts(stage), read, written, said.get(stage)))
    return [cost for cost in costs if cost.seconds is not None]


def _cost(stage: str, facts: dict[str, Any], read: Any, written: Any, forecast: Range | None) -> Cost:
    return Cost(stage, facts.get("rows"), read, written, facts.get("seconds"), forecast)


def _duration(seconds: float | None) -> str:
    """As ``span``, below ten seconds with their tenths: ``4.2 s``."""
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def _number(value: float | None) -> str:
    """``29,151``; a thin space would be torn apart by some fonts."""
    return "–" if value is None else f"{value:,.0f}"
