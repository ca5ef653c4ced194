"""Budget: what each stage of a recipe will have to do, from what a sample of its questions showed. Pure.

    sft                train on the kept traces
    step_by_step       train on them and on as many final lines; ask the student for both
    offline_kd         the teacher reads each kept trace once, then train
    on_policy          train; in each epoch the student writes a part of the rows and the teacher reads all of them
    reject_on_student  the student answers the questions without a kept trace several times; train on those too
    auto               every rung that the pair permits short, and two in full, each asked the dev questions
    answer_only        a second training, on final lines

Where a pace was not measured an assumption stands in for it, and is said (``assumptions``).
"""

from collections.abc import Iterator, Sequence

import msgspec

from cotdistill.answer_only import STAGE as ANSWER_ONLY_STAGE
from cotdistill.learning.ladder import MOST, short_of
from cotdistill.learning.relation import Relation, permitted
from cotdistill.line_up import UNSEEN, labels
from cotdistill.plans.forecast import NOTHING, Climbing, Range, Task, Training, Work, mean
from cotdistill.recipe import Recipe
from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.settings.objective import TOKEN_LEVEL, Objective
from cotdistill.stages.self_samples import STAGE as OWN_SAMPLES


class Sample(msgspec.Struct, frozen=True):
    """What the questions of a plan showed. Lengths are in tokens, a number for each row: ``whole`` are the kept traces
    that fit, with their prompts, and ``answers`` the kept traces alone. ``final_lines`` and ``labels`` are their final
    lines, each with its own prompt, and ``final_answers`` the final lines alone.

    Three are shares: ``rows`` of the planned traces that train, ``untaught`` of the questions that no trace teaches,
    ``right`` of the base's answers. Paces are seconds a token: ``teacher_pace`` and ``base_pace`` of writing,
    ``forward_pace`` of reading by the base; the teacher reads ``teacher_size`` times as slowly.
    """

    traces_each: float
    teacher_prompts: Sequence[int]
    teacher_answers: Sequence[int]
    prompts: Sequence[int]
    base_answers: Sequence[int]
    whole: Sequence[int]
    answers: Sequence[int]
    final_lines: Sequence[int]
    labels: Sequence[int]
    final_answers: Sequence[int]
    rows: Range
    untaught: Range
    right: Range
    teacher_pace: float
    base_pace: float
    forward_pace: float
    teacher_size: float
    relation: Relation


class Sizes(msgspec.Struct, frozen=True):
    """Numbers of questions."""

    train: int
    held_out: int
    unseen: int
    dev: int = 0


def budget(recipe: Recipe, sample: Sample, sizes: Sizes) -> list[Task]:
    """Every stage, in the order of a run."""
    objective = recipe.train.objective
    made: list[Task] = [_generate(recipe, sample, sizes)]
    if objective == "auto":
        made.append(_ladder(recipe, sample, sizes))
    else:
        made += _own_samples(recipe, sample, sizes, objective)
        made.append(_training(recipe, sample, sizes, objective, recipe.train.num_epochs))
    if recipe.evaluate.answer_only:
        rows = sample.rows.times(_planned(sample, sizes) * (1 - recipe.train.validation))
        made.append(
            Training(rows, recipe.train.num_epochs, sample.final_lines, sample.forward_pace, ANSWER_ONLY_STAGE)
        )
    return [*made, *_evaluations(recipe, sample, sizes, objective)]


def assumptions(recipe: Recipe, sample: Sample) -> list[str]:
    """What stands in for measurements in the budget, a sentence each."""
    tried = _rungs(recipe, sample.relation) if recipe.train.objective == "auto" else recipe.train.tried
    said = ["the student writes answers as long as its traces, at the pace of the base"]
    if {*TOKEN_LEVEL} & {*tried}:
        size = f"the teacher, {sample.teacher_size:.1f} times the student's size, reads as many times as slowly as it"
        served = "the teacher's server gives prompt_logprobs, and reads as fast as the student does here"
        said.append(served if recipe.models.server else size)
    if "on_policy" in tried:
        said.append("in training the student writes at the pace and length of the base's answers")
    if "reject_on_student" in tried:
        said.append("the student's own samples are right as often as the base's answers, and written at their pace")
    if recipe.train.objective == "auto":
        said.append(f"of the ladder {MOST} rungs of middling cost are trained in full")
    return said


def _planned(sample: Sample, sizes: Sizes) -> int:
    return round(sizes.train * sample.traces_each)


def _generate(recipe: Recipe, sample: Sample, sizes: Sizes) -> Work:
    rows = _planned(sample, sizes)
    return Work("generate", rows, sample.teacher_prompts, sample.teacher_answers, sample.teacher_pace)


def _own_samples(recipe: Recipe, sample: Sample, sizes: Sizes, objective: Objective) -> Iterator[Work]:
    if objective == "reject_on_student":
        asked = _asked(recipe, sample, sizes).expected * recipe.train.reject_on_student.num_samples
        yield Work(OWN_SAMPLES, round(asked), sample.prompts, sample.base_answers, sample.base_pace)


def _asked(recipe: Recipe, sample: Sample, sizes: Sizes) -> Range:
    """Questions that the student samples answers to."""
    alone = recipe.train.reject_on_student.alone
    return Range(*[float(sizes.train)] * 3) if alone else sample.untaught.times(sizes.train)


def _training(recipe: Recipe, sample: Sample, sizes: Sizes, objective: Objective, epochs: float) -> Training:
    settings = recipe.train
    left = 1 - settings.validation
    rows = sample.rows.times(_planned(sample, sizes) * left)
    whole = mean(sample.whole)
    reading = rows.times(whole).times(sample.forward_pace * sample.teacher_size)
    lengths, more = sample.whole, NOTHING
    if objective == "step_by_step":
        lengths, rows = [*sample.whole, *sample.labels], rows.times(2)
    elif objective == "offline_kd":
        more = reading
    elif objective == "on_policy":
        own = settings.on_policy
        written = mean([min(tokens, own.max_new_tokens) for tokens in sample.base_answers])
        writing = rows.times(written).times(own.student_share * sample.base_pace)
        more = (reading + writing).times(epochs)
    elif objective == "reject_on_student":
        confirmed = _asked(recipe, sample, sizes).times(sample.right)
        own_rows = confirmed.times(settings.reject_on_student.num_samples * left)
        rows = own_rows if settings.reject_on_student.alone else rows + own_rows
    return Training(rows, epochs, lengths, sample.forward_pace, more=more)


def _rungs(recipe: Recipe, relation: Relation) -> list[Objective]:
    """Those of the ladder that the pair permits."""
    return [rung for rung in recipe.train.auto.rungs if rung in permitted(relation.kind)]


def _ladder(recipe: Recipe, sample: Sample, sizes: Sizes) -> Climbing:
    rungs, whole = _rungs(recipe, sample.relation), recipe.train.num_epochs
    cut = short_of(whole)
    full = [_training(recipe, sample, sizes, rung, whole) for rung in rungs]
    short = [_training(recipe, sample, sizes, rung, cut) for rung in rungs] if cut < whole else []
    own = [work for rung in rungs for work in _own_samples(recipe, sample, sizes, rung)]
    answers = _cut(sample.answers, recipe)
    asked = Work("ladder", sizes.dev, sample.prompts, answers, sample.base_pace)
    return Climbing(short, full, MOST if short else len(full), asked, own)


def _evaluations(recipe: Recipe, sample: Sample, sizes: Sizes, objective: Objective) -> Iterator[Work]:
    answers = {
        "base": sample.base_answers, "student": sample.answers, ANSWER_ONLY: sample.final_answers,
        "teacher": sample.teacher_answers,
    }  # fmt: skip
    for name, its_labels in labels(recipe, objective, unseen=bool(sizes.unseen)).items():
        for label in its_labels:
            count = sizes.unseen if label.startswith(UNSEEN) else sizes.held_out
            # The teacher was asked with the worked examples.
            prompts = sample.teacher_prompts if label == "base_few_shot" else sample.prompts
            written = sample.final_answers if label == "student_label" else answers[name]
            pace = sample.teacher_pace if name == "teacher" else sample.base_pace
            rows = count * recipe.evaluate.num_samples
            yield Work(f"evaluate/{label}", rows, prompts, _cut(written, recipe), pace)


def _cut(answers: Sequence[int], recipe: Recipe) -> list[int]:
    """Answers as the evaluation cuts them off."""
    return [min(tokens, recipe.evaluate.max_new_tokens) for tokens in answers]
