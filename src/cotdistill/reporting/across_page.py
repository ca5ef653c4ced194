"""The comparison of several runs, on a terminal and on a page of its own that loads nothing."""

from pathlib import Path

from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from cotdistill.errors import UsageError
from cotdistill.reporting.across import Across
from cotdistill.reporting.markup import environment, policy, source
from cotdistill.reporting.table import bare_p, points, say, show, table_of
from cotdistill.shown import one_line, percent
from cotdistill.statistics import Paired, p_text
from cotdistill.storage.disk import cannot, write_atomic

MARK = b'<meta name="generator" content="cotdistill compare">'


def write_page(found: Across, path: Path) -> None:
    """Write the page. Raises ``UsageError`` where ``path`` holds something that is no such page."""
    try:
        if path.exists() and MARK not in path.read_bytes()[:4000]:
            raise UsageError(f"{path} exists and is no comparison; choose another --output")
    except OSError as error:
        raise cannot("read", path, error) from error
    templates = environment()
    style = source(templates, "report.css")
    html = templates.get_template("compare.html.j2").render(
        found=found, students=_Students(found), style=Markup(style), policy=policy(style), mark=Markup(MARK.decode())
    )
    write_atomic(path, html.encode())


class _Students:
    """What the figure of accuracies takes: a score by name, and no chance rate."""

    chance_rate = None

    def __init__(self, found: Across) -> None:
        bases = {f"{run.name}, base": run.models["base"] for run in found.runs}
        alike = len({score.correct for score in bases.values()}) == 1
        shown = {"base": next(iter(bases.values()))} if alike else bases
        self.models = {**shown, **{run.name: run.models["student"] for run in found.runs}}


def print_across(found: Across, console: Console) -> None:
    """The runs, every run against the first, and the groups of seeds."""
    left = f" ({found.left_out} more were not asked everywhere)" if found.left_out else ""
    say(f"{found.n} held-out questions asked in every run{left}", console, "bold")
    runs = table_of("run", "seed", "base", "student", "teacher", "student - base", "p", "verdict")
    for run in found.runs:
        shown = [percent(run.models[name].accuracy) if name in run.models else "-"
                 for name in ("base", "student", "teacher")]  # fmt: skip
        row = (*shown, points(run.difference, short=True), bare_p(run.paired.p_value), run.verdict.replace("_", " "))
        runs.add_row(Text(one_line(run.name)), str(run.seed), *row)
    show(runs, console)
    console.print()
    for pair in found.pairs:
        say(f"{pair.b} against {pair.a}: {points(pair.difference)}; {_counts(pair.paired)}", console)
        say(f"  {pair.meaning or 'other settings'}; differs in {_listed(pair.differs)}", console, "dim")
    seeds = [group for group in found.groups if len(group.runs) > 1]
    for group in seeds:
        spread = f", standard deviation {100 * group.spread:.1f} points" if group.spread is not None else ""
        what = "seeds" if spread else "runs, some with the same seeds"
        say(
            f"{len(group.runs)} {what} ({', '.join(group.runs)}): mean {percent(group.mean)}{spread}, "
            f"{percent(group.lowest)} to {percent(group.highest)}; above the base by {points(group.difference)}, "
            f"{p_text(group.p_value)}",
            console,
        )
    for one in found.contrasts:
        say(f"mean of {one.b} against mean of {one.a}: {points(one.difference)}, {p_text(one.p_value)}", console)
    say("in brackets: 95 %, paired bootstrap; p: McNemar, exact, or over seeds the sign-flip test", console, "dim")


def _counts(pair: Paired) -> str:
    return f"{pair.only_student} gained, {pair.only_base} lost; {p_text(pair.p_value)}"


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "") if keys else "nothing"
