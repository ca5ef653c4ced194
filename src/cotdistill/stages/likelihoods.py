"""traces --score--> likelihoods: how likely the student finds each trace that a choice has to be made among."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from cotdistill.download import local_model
from cotdistill.example import Example, answer_tokens, build_example
from cotdistill.journal import Journal, Rows
from cotdistill.judging.files import contenders
from cotdistill.judging.likelihood import Likelihood, Likelihoods, text_hash
from cotdistill.progress import Bar
from cotdistill.question import Question
from cotdistill.settings.verify import Verify
from cotdistill.stages.models import identify
from cotdistill.storage.fingerprint import changes
from cotdistill.storage.keys import Keys
from cotdistill.storage.manifest import Manifest
from cotdistill.trace_file import TraceFile

log = logging.getLogger(__name__)

STAGE = "likelihoods"


def run_likelihoods(
    questions: Sequence[Question],
    traces: Path,
    path: Path,
    manifest: Manifest,
    settings: Verify,
    *,
    student: str,
    system_prompt: str,
    only_known: bool = True,
    load_in_4bit: bool | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Likelihoods:
    """Score into ``path`` whatever ``settings`` have to choose among and that has no score yet; only for that the
    student is opened. It reads what it would be trained on: the system prompt, the question and the text to learn.

    Raises ``ResumeError`` where there are scores of another student or prompt; ``overwrite`` replaces those.
    """
    from cotdistill.hardware import place
    from cotdistill.learning.student_scores import mean_nats
    from cotdistill.model import load_model

    placement = place(load_in_4bit)
    engine = f"transformers, {placement.precision()}"
    claimed = {
        "student": identify(student, gguf=False),
        "system_prompt": system_prompt,
        "load_in_4bit": load_in_4bit,
        "trust_remote_code": trust_remote_code,
    }
    known = manifest.stages.get(STAGE)
    stale = known is None or known.engine not in ("", engine) or changes(STAGE, known.settings, claimed)
    anew = overwrite and bool(stale)  # scores that fit stay true
    manifest.claim(STAGE, claimed, overwrite=anew, files=[path], holds=Likelihood)

    def owed(done: Keys) -> Iterator[tuple[str, str, Question, str]]:
        """Hash, trace id, question and text of what has no score yet, each text once."""
        seen = Keys()
        with TraceFile(traces, questions, only_known=only_known) as file:
            for trace_id, question, text in contenders(file, settings):
                hashed = text_hash(system_prompt, question, text)
                if hashed not in done and hashed not in seen:
                    seen.add(hashed)
                    yield hashed, trace_id, question, text

    with Journal(path, Likelihood, key=lambda row: row.text) as journal:
        there = len(journal.done)
        if missing := sum(1 for _ in owed(journal.done)):
            log.info("%s: the student scores %d traces, %d are there", path, missing, there)
            model = load_model(local_model(student, want="hf"), placement, trust_remote_code=trust_remote_code)
            manifest.begin(STAGE, planned=there + missing, engine=engine)
            hashes: dict[str, str] = {}  # of the traces that are being scored
            with Bar(STAGE, there + missing, there, quiet=quiet) as bar:

                def add(row: Example, nats: float | None) -> None:
                    tokens = answer_tokens(row)
                    journal.append(Likelihood(hashes.pop(row.trace_id), row.trace_id, nats, tokens))
                    bar.step(tokens=tokens)

                def fitting() -> Iterator[Example]:
                    for hashed, trace_id, question, text in owed(journal.done):
                        row = build_example(model.template, question, text, system=system_prompt, trace_id=trace_id)
                        hashes[trace_id] = hashed
                        if len(row.input_ids) <= model.context_length:
                            yield row
                        else:
                            add(row, None)

                for row, nats in mean_nats(model, fitting()):
                    add(row, nats)
    if missing or not manifest.done(STAGE):
        tokens = sum(row.tokens for row in Rows(path, Likelihood))
        manifest.finish(STAGE, rows=there + missing, tokens=tokens)
    return Likelihoods(system_prompt, Rows(path, Likelihood))
