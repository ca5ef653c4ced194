"""The tables of docs/results.md, from the reports committed in benchmarks/results/.

    python -m benchmarks.tables benchmarks/results/multiarith.json
    python -m benchmarks.tables --seeds benchmarks/results/quickstart_seed*.json
"""

import sys
from pathlib import Path

from cotdistill.report import Comparison, Report, from_json
from cotdistill.statistics import p_text


def model_table(comparison: Comparison) -> str:
    """One row a model, then the paired comparison of student and base."""
    lines = [
        "| model | right | accuracy [95 %] | by the marker alone | no answer | cut off | tokens | s a question |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, score in comparison.models.items():
        lines.append(
            f"| {name} | {score.correct}/{score.n} | {_percent(score.accuracy)} "
            f"[{_percent(score.ci_low)}, {_percent(score.ci_high)}] | {_percent(score.accuracy_strict)} "
            f"| {score.no_answer} | {score.truncated} | {score.mean_completion_tokens or 0:.0f} "
            f"| {score.seconds_per_question:.2f} |"
        )
    return "\n".join(lines)


def pair_line(comparison: Comparison) -> str:
    """Student against base, read leniently and strictly."""
    pair, strict, gain = comparison.paired, comparison.paired_strict, comparison.gain
    if pair is None or strict is None or gain is None:
        return ""
    return (
        f"Student against base: {pair.only_student} gained, {pair.only_base} lost, {p_text(pair.p_value)}; "
        f"by the marker alone {strict.only_student} gained, {strict.only_base} lost, {p_text(strict.p_value)}. "
        f"Of a strict gain of {100 * gain.total_strict:+.1f} points {100 * gain.reasoning_lenient:+.1f} are reasoning "
        f"and {100 * gain.format:+.1f} format."
    )


def seed_table(reports: list[tuple[str, Report]]) -> str:
    """One row a run."""
    lines = ["| run | base | student | p | unseen: base | unseen: student | verdict |", "|---|---|---|---|---|---|---|"]
    for name, report in reports:
        unseen = report.transfer.models if report.transfer else {}
        cells = [_right(report.models, "base"), _right(report.models, "student")]
        cells += [p_text(report.paired.p_value) if report.paired else "", _right(unseen, "base")]
        lines.append(f"| {name} | {' | '.join(cells)} | {_right(unseen, 'student')} | {report.verdict} |")
    return "\n".join(lines)


def _right(models: dict, name: str) -> str:
    return f"{models[name].correct}/{models[name].n}" if name in models else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def main(words: list[str]) -> None:
    paths = [Path(word) for word in words if word != "--seeds"]
    reports = [(path.stem, from_json(path.read_bytes(), str(path))) for path in paths]
    if "--seeds" in words:
        print(seed_table(reports))
        return
    for name, report in reports:
        parts: list[Comparison | Report] = [report, *([report.transfer] if report.transfer else [])]
        for part in parts:
            print(f"{name}\n\n{model_table(part)}\n\n{pair_line(part)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
