"""Dataset: a file of traces with the verdicts that say which may teach.

Ours (``cot_dataset.jsonl``) or a hand-made one with only ``question`` and ``reasoning`` (or ``cot``):

    {"question": "What is 15% of 240?", "reasoning": "0.15 * 240 = 36.\\nFinal Answer: 36"}
"""

import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cotdistill.errors import DataError
from cotdistill.identity import digest
from cotdistill.journal import read_rows
from cotdistill.judging.files import judge_question
from cotdistill.judging.pairs import teaching_pairs
from cotdistill.question import Question
from cotdistill.run_directory import RunDirectory
from cotdistill.settings.train import Target
from cotdistill.settings.verify import Verify
from cotdistill.shown import first_of
from cotdistill.storage.manifest import beside
from cotdistill.trace import Trace
from cotdistill.trace_file import TraceFile
from cotdistill.verdict import TaughtText, Verdict, judged_hash

log = logging.getLogger(__name__)


class Dataset(msgspec.Struct, frozen=True):
    """``pairs`` are what is to be learned, ``labels`` the same with the final line alone as text; ``counts`` are the
    traces by status."""

    pairs: list[TaughtText]
    counts: dict[str, int]
    labels: list[TaughtText]


def verdicts_and_scores_of(path: Path) -> tuple[Path, Path]:
    """Where the verdicts on a file of traces are, and the teacher's scores of them: beside it, ``cot.verdicts.jsonl``
    for ``cot.jsonl``; in the directory of a run under the run's names."""
    run = RunDirectory(path.parent)
    if path.name == run.traces.name and run.verdicts.exists():
        return run.verdicts, run.scores
    return beside(path, "verdicts.jsonl"), beside(path, "scores.safetensors")


def load_dataset(
    path: Path, verdicts_path: Path, *, target: Target = "reasoning", limit: int | None = None
) -> Dataset:
    """Read traces, and their verdicts where ``verdicts_path`` exists: then a trace without one does not teach.
    Where there is no such file, the traces are judged here; gold stands in the trace row's ``answer``, if anywhere.
    ``limit`` counts questions with a trace that teaches, and all such traces of theirs do: those whose ids hash lowest,
    since the order in which a teacher answered is chance.

    Raises ``DataError`` with file and line for a row that is no trace, and where traces were edited since they were
    judged.
    """
    verdicts = {v.trace_id: v for v in read_rows(verdicts_path, Verdict)} if verdicts_path.exists() else {}
    questions: list[Question] = []
    placed: list[tuple[int, Trace]] = []
    with TraceFile(path) as file:
        for group in file.groups():
            questions.append(group.question)
            placed += zip(group.places, group.traces, strict=True)
            if not verdicts_path.exists():
                judged = judge_question(group.question, group.traces, Verify())
                verdicts |= {verdict.trace_id: verdict for verdict in judged}
    traces = [trace for _, trace in sorted(placed, key=lambda item: item[0])]
    _check_judged(path, verdicts_path, traces, verdicts)
    pairs = list(teaching_pairs(questions, traces, verdicts.values(), target))
    labels = list(teaching_pairs(questions, traces, verdicts.values(), "answer"))
    if limit is not None:
        taken = set(sorted({pair.question.id for pair in pairs}, key=digest)[:limit])
        pairs, labels = ([pair for pair in them if pair.question.id in taken] for them in (pairs, labels))
    # Judged here, without the gold that the verdicts were made with, a wrong trace would pass for unchecked.
    statuses = [verdicts[trace.id].status if trace.id in verdicts else "without a verdict" for trace in traces]
    return Dataset(pairs, dict(Counter(statuses)), labels)


def _check_judged(path: Path, verdicts_path: Path, traces: Sequence[Trace], verdicts: Mapping[str, Verdict]) -> None:
    """A verdict on other words must neither let an edited trace teach nor keep one back that was put right."""
    cure = shlex.join(["cotdistill", "verify", "--traces", str(path), "--output", str(verdicts_path), "--overwrite"])
    cure = f"judge them with: {cure}, and with --questions FILE where their right answers are known"
    known = [(trace, verdicts[trace.id].judged) for trace in traces if trace.id in verdicts]
    if edited := [trace.id for trace, judged in known if judged and judged != judged_hash(trace)]:
        raise DataError(f"{path}: {len(edited)} traces were edited since they were judged ({first_of(edited)}); {cure}")
    if len(known) < len(traces):
        log.warning("%s: %d traces have no verdict and do not teach; %s", path, len(traces) - len(known), cure)
