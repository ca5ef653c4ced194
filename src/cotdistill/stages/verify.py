"""traces --verify--> verdicts."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cotdistill.journal import encode_row, write_rows
from cotdistill.judging.files import Tally, added_to, compared_with, judge_file
from cotdistill.judging.likelihood import Likelihoods
from cotdistill.question import Question
from cotdistill.settings.verify import Verify
from cotdistill.shown import one_line
from cotdistill.storage.disk import replace
from cotdistill.trace_file import TraceFile

log = logging.getLogger(__name__)

MOST_LISTED = 20


def run_verify(
    questions: Sequence[Question],
    traces: Path,
    path: Path,
    settings: Verify,
    *,
    only_known: bool = True,
    keep: bool = False,
    add: bool = False,
    audit: Path | None = None,
    likelihoods: Likelihoods | None = None,
) -> Tally:
    """Judge the traces of these questions (or, unless ``only_known``, all) into ``path``, in the order of the file;
    into ``audit`` goes what two methods disagree on. Cheap and pure, so always done anew. ``likelihoods``, which are
    not, are made before (``run_likelihoods``) where ``settings`` prefer the likely traces.

    With ``add``, earlier verdicts on the same traces stay as they are. With ``keep``, raises ``ResumeError`` where an
    earlier verdict in ``path`` would change or go, and ``path`` stays as it is; without, it says so. Judging a trace
    anew whose request had failed is no change.
    """
    tally = Tally()
    with TraceFile(traces, questions, only_known=only_known) as file, tempfile.TemporaryFile() as spool:
        disagreed = (lambda row: spool.write(encode_row(row))) if audit else None
        verdicts = judge_file(file, settings, tally, audit=disagreed, likelihoods=likelihoods)
        write_rows(path, added_to(path, verdicts, tally) if add else compared_with(path, verdicts, keep=keep))
        if audit:
            spool.seek(0)
            replace(audit, spool)
    for hit in tally.contaminated[:MOST_LISTED]:
        log.info("removed: %s", one_line(str(hit)))
    if (more := len(tally.contaminated) - MOST_LISTED) > 0:
        log.info("removed: %d more questions; the verdicts say for what", more)
    if tally.overlapping:
        first = one_line(str(tally.overlapping[0]))
        log.info("kept: %d questions that share a run of words with the test set; %s", len(tally.overlapping), first)
    return tally
