"""``cotdistill verify``: which traces of a file may teach."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.commands import options as o
from cotdistill.prompt import SYSTEM_PROMPT
from cotdistill.settings.verify import Prefer


def verify(
    traces: Annotated[Path, typer.Option("--traces", help="Traces; hand-made rows of question and reasoning will do.")],
    output: Annotated[Path, typer.Option("--output", help="Where the verdicts go.")],
    questions: Annotated[
        Path | None, typer.Option("--questions", help="Questions with gold answers, found by id, else by text.")
    ] = None,
    vote: Annotated[
        bool,
        typer.Option("--vote", help="Without gold, of 3 different traces or more: only an absolute majority teaches."),
    ] = False,
    steps: Annotated[bool, typer.Option("--steps/--no_steps", help="Check the arithmetic in each trace.")] = True,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Kind of answers whose question declares none: number, text, ...")
    ] = None,
    marker: Annotated[
        list[str] | None, typer.Option("--marker", help="What else announces an answer; may be given several times.")
    ] = None,
    max_words: Annotated[int | None, typer.Option("--max_words", min=1, help="Longer traces do not teach.")] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max_steps", min=1, help="Nor do those of more calculations, or sentences without.")
    ] = None,
    max_per_question: Annotated[
        int | None, typer.Option("--max_per_question", min=1, help="So many traces of a question teach at most.")
    ] = None,
    prefer: Annotated[
        Prefer, typer.Option("--prefer", help="Which of them: likely asks the student, the others ask nobody.")
    ] = "different",
    short_share: Annotated[
        float | None,
        typer.Option("--short_share", min=0.0, max=1.0, help="Share of them from the shorter half of the traces."),
    ] = None,
    student_model: Annotated[
        str | None, typer.Option("--student_model", help="likely: who scores the traces; directory or catalogue name.")
    ] = None,
    system_prompt: o.SystemPrompt = SYSTEM_PROMPT,
    load_in_4bit: o.Load4Bit = None,
    trust_remote_code: o.TrustRemoteCode = False,
    decontaminate: Annotated[
        Path | None, typer.Option("--decontaminate", help="Test questions; a trace of one of them does not teach.")
    ] = None,
    decontaminate_ngram: Annotated[
        int | None,
        typer.Option("--decontaminate_ngram", min=2, help="Nor one whose question shares so many words in a row."),
    ] = None,
    hinted: Annotated[
        bool, typer.Option("--hinted", help="Traces whose teacher was shown the answer may teach, unless it shows.")
    ] = False,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="Write the traces on which two methods disagree, to read them.")
    ] = None,
    question_key: o.QuestionKey = "question",
    answer_key: o.AnswerKey = "answer",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace verdicts made with other options.")] = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Judge every trace and write one verdict a line, in the order of the traces; prints the counts by status.

    Judging new traces into the same file goes on; verdicts that would change are only replaced with --overwrite.
    With --prefer likely the student's scores are kept beside the traces, and no text is scored twice.
    """
    from json import dumps

    import msgspec

    from cotdistill.errors import UsageError
    from cotdistill.judging.audit import Disagreement
    from cotdistill.question import load_questions
    from cotdistill.reading.kinds import KINDS
    from cotdistill.settings.verify import Verify
    from cotdistill.stages.likelihoods import run_likelihoods
    from cotdistill.stages.verify import run_verify
    from cotdistill.storage.lock import locked
    from cotdistill.storage.manifest import Manifest, beside, record_of
    from cotdistill.storage.ours import refuse_foreign
    from cotdistill.verdict import Verdict

    if kind not in (None, *KINDS):
        raise UsageError(f"--kind {kind} is none of {', '.join(KINDS)}")
    if not all(text.strip() for text in marker or ()):
        raise UsageError("--marker is empty")
    if decontaminate_ngram and not decontaminate:
        raise UsageError("--decontaminate_ngram needs --decontaminate, a file of test questions")
    if (prefer == "likely") != bool(student_model):
        raise UsageError("--prefer likely and --student_model go together: the student says what it finds likely")
    scores = beside(traces, "likelihoods.jsonl")
    inputs = [path.resolve() for path in (traces, questions, decontaminate, scores) if path]
    for path in (output, audit):
        if path and (path.resolve() in inputs or (path is audit and path.resolve() == output.resolve())):
            raise UsageError(f"{path} would be read and written; choose another file to write to")
    refuse_foreign(output, Verdict)
    if audit:
        refuse_foreign(audit, Disagreement)
    asked = load_questions(questions, question_key=question_key, answer_key=answer_key) if questions else []
    with o.usage():
        settings = o.checked(Verify(
            steps=steps,
            vote=vote,
            kind=kind,
            markers=tuple(marker or ()),
            max_words=max_words,
            max_steps=max_steps,
            max_per_question=max_per_question,
            prefer=prefer,
            short_share=short_share,
            decontaminate=str(decontaminate) if decontaminate else None,
            decontaminate_ngram=decontaminate_ngram,
            hinted=hinted,
        ))
    likelihoods = None
    if student_model:
        record = record_of(scores)
        with locked(record, break_lock=break_lock):
            likelihoods = run_likelihoods(
                asked, traces, scores, Manifest.open(record), settings, student=student_model,
                system_prompt=system_prompt, only_known=False, load_in_4bit=load_in_4bit,
                trust_remote_code=trust_remote_code, overwrite=overwrite, quiet=quiet,
            )  # fmt: skip
    tally = run_verify(
        asked, traces, output, settings, only_known=False, keep=not overwrite, audit=audit, likelihoods=likelihoods
    )
    if json:
        summary = msgspec.to_builtins({"output": str(output), "questions": len(asked), **tally.summary()})
        typer.echo(dumps(summary))  # in ASCII: ids are a user's text
        return
    typer.echo(f"{output}: {tally.counts.total()} traces, {tally.teach} may teach ({o.counted(tally.counts)})")
    if asked and (tally.questions_with_traces < len(asked) or tally.traces_without_gold):
        typer.echo(
            f"{tally.questions_with_traces} of {len(asked)} questions have a trace; "
            f"{tally.traces_without_gold} traces have no gold"
        )
    if tally.flags:
        typer.echo(f"flags: {o.counted(tally.flags)}")
    if audit:
        typer.echo(f"{audit}: {tally.disagreements} disagreements to read")
