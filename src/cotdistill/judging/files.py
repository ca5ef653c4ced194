"""Judging: every trace of a file gets its verdict, question by question.

    trace file -> judge -> vote -> duplicates -> contaminated -> not selected -> verdicts, in the order of the file

What only one trace decides comes first, so that a wrong trace is never called a duplicate. Memory holds the
traces of one question, and some 100 bytes for every other trace.
"""

import logging
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from cotdistill.errors import DataError, ResumeError, UsageError
from cotdistill.journal import Rows, encode_row, read_rows
from cotdistill.judging.audit import Disagreement, disagreements
from cotdistill.judging.contamination import NGRAM, Contamination, Hit
from cotdistill.judging.likelihood import Likelihoods
from cotdistill.judging.selection import drop_duplicates, keep
from cotdistill.judging.vote import vote
from cotdistill.question import Question, load_questions
from cotdistill.reading.marker import MARKERS
from cotdistill.reading.symbolic import same_symbolic
from cotdistill.settings.verify import Verify
from cotdistill.storage.keys import Keys
from cotdistill.trace import Trace
from cotdistill.trace_file import TraceFile
from cotdistill.verdict import TEACHES, TaughtText, Verdict, judge, judged_hash, taught_text

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tally:
    """What a judging found, counted as it goes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.contaminated: list[Hit] = []  # questions of traces that were removed
        self.overlapping: list[Hit] = []  # questions kept though they share a run of words with the test set
        self.disagreements = 0
        self.questions_with_traces = 0  # of the questions that were given
        self.traces_without_gold = 0

    @property
    def teach(self) -> int:
        return sum(count for status, count in self.counts.items() if status in TEACHES)

    def summary(self) -> dict[str, object]:
        """The tally as plain data; a question is listed under what it hit."""
        return {
            "traces": self.counts.total(),
            "teach": self.teach,
            "counts": dict(self.counts),
            "flags": dict(self.flags),
            "contaminated": self.contaminated,
            "overlapping": self.overlapping,
            "disagreements": self.disagreements,
            "questions_with_traces": self.questions_with_traces,
            "traces_without_gold": self.traces_without_gold,
        }


def judge_file(
    traces: TraceFile,
    settings: Verify,
    tally: Tally,
    *,
    audit: Callable[[Disagreement], object] | None = None,
    likelihoods: Likelihoods | None = None,
) -> Iterator[Verdict]:
    """One verdict a trace, in the order of the file; ``tally`` and ``audit`` are fed on the way. ``likelihoods`` are
    those of all ``contenders`` where the likely ones are preferred."""
    contamination = _contamination(traces, settings)
    with tempfile.TemporaryFile() as spool:  # a trace may wait for one of a question that is still to come
        starts = array("Q", bytes(8 * len(traces)))
        for group in traces.groups():
            tally.questions_with_traces += traces.knows(group.question)
            tally.traces_without_gold += len(group.traces) if group.question.gold is None else 0
            hit, near = _met(group.question, contamination, settings)
            if near:
                tally.overlapping.append(near)
            question = _with_kind(group.question, settings)
            verdicts = judge_question(question, group.traces, settings, hit=hit, likelihoods=likelihoods)
            if hit and any(verdict.status == "contaminated" for verdict in verdicts):
                tally.contaminated.append(hit)
            for place, trace, verdict in zip(group.places, group.traces, verdicts, strict=True):
                if audit:
                    for disagreement in disagreements(trace, question, verdict, all_markers(settings)):
                        audit(disagreement)
                        tally.disagreements += 1
                tally.counts[verdict.status] += 1
                tally.flags.update(verdict.flags)
                starts[place] = spool.tell()
                spool.write(encode_row(msgspec.structs.replace(verdict, judged=judged_hash(trace))))
        read = msgspec.json.Decoder(Verdict).decode
        for start in starts:
            spool.seek(start)
            yield read(spool.readline())


def contenders(traces: TraceFile, settings: Verify) -> Iterator[TaughtText]:
    """What would be learned of the traces among which ``settings`` have to choose: those of questions of which more may
    teach than ``max_per_question``."""
    contamination = _contamination(traces, settings)
    for group in traces.groups():
        hit, _ = _met(group.question, contamination, settings)
        verdicts = _sound(group.question, group.traces, settings, hit)
        teaching = [pair for pair in zip(group.traces, verdicts, strict=True) if pair[1].status in TEACHES]
        if settings.max_per_question and len(teaching) > settings.max_per_question:
            for trace, verdict in teaching:
                yield TaughtText(trace.id, group.question, taught_text(trace, verdict))


def judge_question(
    question: Question,
    traces: list[Trace],
    settings: Verify,
    *,
    hit: Hit | None = None,
    likelihoods: Likelihoods | None = None,
) -> list[Verdict]:
    """The verdicts of all traces of one question, in order; ``hit`` is the test question that it meets, and
    ``likelihoods`` are for preferring the likely ones."""
    verdicts = _sound(question, traces, settings, hit)
    if settings.max_per_question is None:
        return verdicts
    if settings.prefer == "likely" and likelihoods is None:
        raise UsageError("to prefer the likely traces a student has to score them first: see run_likelihoods")
    nats = (likelihoods or Likelihoods("", ())).nats
    return keep(
        list(zip(traces, verdicts, strict=True)), settings.max_per_question, settings.prefer,
        short_share=settings.short_share, nats=partial(nats, question),
    )  # fmt: skip


def _sound(question: Question, traces: list[Trace], settings: Verify, hit: Hit | None) -> list[Verdict]:
    """The verdicts before any choice among traces that may teach."""
    question, markers = _with_kind(question, settings), all_markers(settings)
    verdicts = [
        judge(trace, question, steps=settings.steps, repair=settings.repair, markers=markers, symbolic=same_symbolic,
              max_words=settings.max_words, max_steps=settings.max_steps, hinted=settings.hinted)
        for trace in traces
    ]  # fmt: skip
    if settings.vote:
        verdicts = vote(question, list(zip(traces, verdicts, strict=True)))
    verdicts = drop_duplicates(list(zip(traces, verdicts, strict=True)))
    if hit:
        verdicts = [
            msgspec.structs.replace(v, status="contaminated", reason=str(hit)) if v.status in TEACHES else v
            for v in verdicts
        ]
    return verdicts


def all_markers(settings: Verify) -> tuple[str, ...]:
    """The markers of ``settings`` besides the usual ones."""
    return (*settings.markers, *MARKERS)


def _with_kind(question: Question, settings: Verify) -> Question:
    if settings.kind is None or question.kind is not None:
        return question
    return msgspec.structs.replace(question, kind=settings.kind)


def _contamination(traces: TraceFile, settings: Verify) -> Contamination | None:
    if not settings.decontaminate:
        return None
    test = load_questions(settings.decontaminate)
    return Contamination(test, traces.questions(), ngram=settings.decontaminate_ngram or NGRAM)


def _met(
    question: Question, contamination: Contamination | None, settings: Verify
) -> tuple[Hit | None, Hit | None]:
    """The test question for which this one is removed, and that with which it shares only a run of words."""
    if contamination is None:
        return None, None
    if exact := contamination.exact(question):
        return exact, None
    near = contamination.ngram(question)
    return (None, near) if settings.decontaminate_ngram is None else (near, None)


def with_verdicts(traces: Iterable[Trace], verdicts: Iterable[Verdict]) -> Iterator[tuple[Trace, Verdict | None]]:
    """Every trace with its verdict, if it has one. The verdicts may come in any order; in that of the traces, as
    ``judge_file`` gives them, none is held."""
    return _matched(traces, lambda trace: trace.id, verdicts)


def _matched(
    rows: Iterable[T], trace_id: Callable[[T], str], verdicts: Iterable[Verdict]
) -> Iterator[tuple[T, Verdict | None]]:
    coming = iter(verdicts)
    ahead: dict[str, Verdict] = {}  # of traces that are still to come
    for row in rows:
        key = trace_id(row)
        while key not in ahead and (verdict := next(coming, None)):
            ahead[verdict.trace_id] = verdict
        yield row, ahead.pop(key, None)


def added_to(path: Path, verdicts: Iterable[Verdict], tally: Tally) -> Iterator[Verdict]:
    """The verdicts, in the place of each that ``path`` has already on the same trace the earlier one: it may rest on
    gold, a vote or a choice that are not known here. A log line says how many would be others. An ``error`` is judged
    anew. ``tally`` counts what comes out.

    Raises ``DataError`` where ``path`` holds something else.
    """
    others = 0
    for verdict, known in _matched(verdicts, lambda verdict: verdict.trace_id, Rows(path, Verdict)):
        if known is None or known.judged != verdict.judged or known.status == "error" or known == verdict:
            yield verdict
            continue
        others += 1
        tally.counts.subtract([verdict.status])
        tally.counts += Counter([known.status])  # which drops what is down to 0
        yield known
    if others:
        say = "%s: %d earlier verdicts stay; judged now they would be others, as `cotdistill verify --overwrite` does"
        log.warning(say, path, others)


def compared_with(path: Path, verdicts: Iterable[Verdict], *, keep: bool) -> Iterator[Verdict]:
    """The verdicts, compared on the way with those that ``path`` holds.

    With ``keep``, raises ``ResumeError`` at the end where one of those would change or go, and ``UsageError`` at
    once where ``path`` holds something else; without, a log line says how many change. An ``error`` may change.
    """
    earlier, hashes = Keys(), array("q")
    if path.exists():
        try:
            for old in read_rows(path, Verdict):
                if old.status != "error" and earlier.add(old.trace_id) == len(hashes):
                    hashes.append(hash(old))
        except DataError as error:
            if keep:
                raise UsageError(f"{path} holds something other than verdicts; choose another --output") from error
            earlier = Keys()
    same, total = 0, len(earlier)
    for verdict in verdicts:
        place = earlier.find(verdict.trace_id)
        same += place is not None and hashes[place] == hash(verdict)
        yield verdict
    if same < total and keep:
        raise ResumeError(
            f"{total - same} of {total} verdicts in {path} would change: they were made with other options or traces; "
            "choose another --output, or replace them with --overwrite"
        )
    if same < total:
        log.warning("%s: %d of %d earlier verdicts changed", path, total - same, total)
