"""Self samples: what the student itself answers to the training questions; where it is right, it learns from that.

    2_student_traces.jsonl   {"id": "q1a2#3", "question_id": "q1a2", "model": "smollm2-135m-instruct", ...}
    3_student_verdicts.jsonl {"trace_id": "q1a2#3", "status": "correct", "answer": "36"}

Rejection sampling on the student (STaR, Zelikman et al. 2022, arXiv:2203.14465, without its hints; RFT, Yuan et al.
2023, arXiv:2308.01825): its own words are easy to learn, and being right is what sets them apart. So only an answer
that gold or a vote has confirmed counts; one that is merely unchecked would teach the student what it does anyway.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cotdistill.engines import Sampling
from cotdistill.errors import DataError
from cotdistill.journal import Rows
from cotdistill.judging.pairs import teaching_pairs
from cotdistill.question import Question
from cotdistill.recipe import Recipe
from cotdistill.settings.generate import Generate
from cotdistill.settings.verify import Verify
from cotdistill.stages.generate import run_generate
from cotdistill.stages.models import OpenEngine
from cotdistill.stages.verify import run_verify
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace
from cotdistill.verdict import TaughtText, Verdict

STAGE = "generate/student"
TRACES = "2_student_traces.jsonl"
VERDICTS = "3_student_verdicts.jsonl"
CONFIRMED = ("correct", "agrees")


def refuse_unconfirmed(questions: Sequence[Question], verify: Verify) -> None:
    """Raise ``DataError`` where nothing could tell the student's right answers from its wrong ones."""
    if not verify.vote and all(question.gold is None for question in questions):
        raise DataError(
            "reject_on_student needs to know which answers are right, and no training question has one: "
            "add answers, set verify.vote, or use sft"
        )


def asked_of(recipe: Recipe) -> Generate:
    """How the student is asked: as it is evaluated, but sampling, several times."""
    own, prompt = recipe.train.reject_on_student, recipe.generate.system_prompt
    sampling = Sampling(
        recipe.evaluate.max_new_tokens, do_sample=True, temperature=own.temperature, seed=recipe.generate.sampling.seed
    )
    return Generate(prompt, num_samples=own.num_samples, batch_size=recipe.evaluate.batch_size, sampling=sampling)


def with_own(
    questions: Sequence[Question], teachers: Sequence[TaughtText], directory: Path, manifest: Manifest, *,
    recipe: Recipe, student: dict[str, str], open_student: OpenEngine, overwrite: bool = False, quiet: bool = False,
) -> list[TaughtText]:  # fmt: skip
    """What is to be learned: the student's own confirmed answers alone, or added to ``teachers``, the pairs of the
    teacher, for the questions that none of those answers. Only these questions are put to it."""
    taught = {pair.question.id for pair in teachers}
    alone = recipe.train.reject_on_student.alone
    asked = [question for question in questions if alone or question.id not in taught]
    if asked:
        run_generate(
            asked, directory / TRACES, manifest, settings=asked_of(recipe), shots=(), model=student,
            open_teacher=open_student, unasked=[q for q in questions if not alone and q.id in taught],
            load_in_4bit=recipe.models.load_in_4bit, trust_remote_code=recipe.models.trust_remote_code,
            overwrite=overwrite, quiet=quiet, stage=STAGE,
        )  # fmt: skip
        # All of them are likely to the student who wrote them.
        run_verify(asked, directory / TRACES, directory / VERDICTS, recipe.verify.without_student)
    return [*(() if alone else teachers), *(own_pairs(asked, directory) if asked else ())]


def own_pairs(questions: Sequence[Question], directory: Path) -> Iterator[TaughtText]:
    """The confirmed answers, each under an id that no trace of the teacher has."""
    known = {question.id for question in questions}
    traces = (trace for trace in Rows(directory / TRACES, Trace) if trace.question_id in known)
    confirmed = (verdict for verdict in Rows(directory / VERDICTS, Verdict) if verdict.status in CONFIRMED)
    for trace_id, question, text in teaching_pairs(questions, traces, confirmed):
        yield TaughtText(f"{trace_id}/student", question, text)
