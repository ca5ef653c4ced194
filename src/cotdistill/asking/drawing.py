"""Drawing: which sample of which question is asked next, and when a question has enough.

    Step("", 0, 4, sampling, enough=2)          q1#0 right, q1#1 wrong, q1#2 right: enough, q1#3 is never asked
    Step("escalate", 4, 4, hotter, enough=1)    q2#0..3 wrong, q2#4 right: enough
    Step("second_teacher", 8, 4, sampling, enough=1, teacher=1)
    Step("hint", 12, 4, sampling, enough=1, teacher=1, hint=True)

The rule. A sample succeeds if its trace may teach by the verdicts that ``verify`` gives, near-duplicates left out;
without gold the successes of a question are the most such traces whose answers agree with one of them. A question
gets samples until ``enough`` of them succeed or the step has none left. Only a question without any success goes on
to the next step; after the last one it is given up. A question whose request failed waits for the next run.

A question has no more samples in flight than it lacks successes. So what is asked is the shortest run of samples
0, 1, 2, ... that holds enough successes, whatever an engine computes together and wherever a run was cut off; while
some questions wait for their answers, others keep the engine busy.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import msgspec

from cotdistill.answer import find_answer, same_answer
from cotdistill.asking.ask import Answered, Wanted, put, row_id
from cotdistill.asking.spending import Spending
from cotdistill.engines import Engine, Message, Sampling
from cotdistill.grade import gold_of
from cotdistill.judging.files import all_markers, judge_question
from cotdistill.judging.selection import drop_duplicates
from cotdistill.question import Question
from cotdistill.settings.generate import Generate
from cotdistill.settings.verify import Verify
from cotdistill.storage.keys import Keys
from cotdistill.trace import Trace
from cotdistill.verdict import TEACHES, Verdict

Good = list[tuple[Trace, Verdict]]


class Step(msgspec.Struct, frozen=True):
    """One way to ask. Its samples are numbered from ``first`` on; ``enough`` is None where all of them are wanted;
    ``teacher`` is 0 for the first, 1 for the second."""

    name: str
    first: int
    samples: int
    sampling: Sampling
    enough: int | None = None
    teacher: int = 0
    hint: bool = False

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.samples)


def steps_of(settings: Generate, *, second: bool = False) -> list[Step]:
    """The steps that the settings ask for, in order: usual samples, hotter ones, those of a ``second`` teacher, those
    with a hint, which the last teacher gets."""
    usual = settings.sampling
    steps = [Step("", 0, settings.num_samples, usual, settings.enough)]

    def add(name: str, samples: int, sampling: Sampling, *, teacher: int = 0, hint: bool = False) -> None:
        first = steps[-1].numbers.stop
        steps.append(Step(name, first, samples, sampling, settings.enough or 1, teacher, hint))

    if more := settings.escalate:
        hotter = msgspec.structs.replace(
            usual, do_sample=True, temperature=more.temperature,
            max_new_tokens=more.max_new_tokens or usual.max_new_tokens,
        )  # fmt: skip
        add("escalate", more.num_samples, hotter)
    if second:
        add("second_teacher", settings.num_samples, usual, teacher=1)
    if settings.hint:
        add("hint", settings.num_samples, usual, teacher=int(second), hint=True)
    return steps


class Drawing:
    """``answers`` asks, ``there`` and ``came`` are told of the rows that were there and that came. In memory are some
    30 bytes for every row, and the traces that may teach of questions that have some but not yet enough."""

    def __init__(
        self,
        questions: Sequence[Question],
        steps: Sequence[Step],
        messages: Callable[[Question, Step], tuple[Message, ...]],
        *,
        verify: Verify | None = None,
        spending: Spending | None = None,
    ) -> None:
        self.steps = steps
        self.spending = spending or Spending((None,) * (1 + max(step.teacher for step in steps)))
        self.capped = False
        self._questions = {question.id: question for question in questions}
        self._messages = messages
        # A vote needs all samples, and which of many are kept is decided when all are there.
        self._verify = msgspec.structs.replace(
            verify or Verify(), vote=False, max_per_question=None, prefer="different", short_share=None
        )
        self._judges = any(step.enough is not None for step in steps)
        self._enough = steps[0].enough or 1
        self._there = Keys()
        self._settled = Keys()
        self._good: dict[str, Good] = {}
        self._failed: set[str] = set()
        self._flying: set[str] = set()
        self._in_flight: Counter[str] = Counter()
        self._again: deque[Question] = deque()
        self._step = steps[0]

    def step_of(self, sample: int) -> Step:
        """The step that a sample belongs to; the last one for a sample beyond all."""
        return next((step for step in self.steps if sample < step.numbers.stop), self.steps[-1])

    def there(self, trace: Trace) -> None:
        """A row that is in the file. One that failed will be asked again; one told of before is no news."""
        if trace.finish == "error" or trace.id in self._there:
            return
        self._there.add(trace.id)
        self.spending.add(self.step_of(trace.sample).teacher, trace.prompt_tokens, trace.completion_tokens)
        question = self._questions.get(trace.question_id)
        if not self._judges or question is None or question.id in self._settled:
            return
        verdict = judge_question(question, [trace], self._verify)[0]
        if verdict.status in TEACHES:
            good = self._good.setdefault(question.id, [])
            good.append((trace, verdict))
            if self._successes(question) >= self._enough:
                self._settled.add(question.id)
                del self._good[question.id]

    def came(self, trace: Trace) -> None:
        """A row that was asked for and is now in the file."""
        self._flying.discard(trace.id)
        self._in_flight[trace.question_id] -= 1
        if not self._in_flight[trace.question_id]:
            del self._in_flight[trace.question_id]
        self.spending.end(trace.id)
        if trace.finish == "error":
            self._failed.add(trace.question_id)
        else:
            self.there(trace)
            if self._step.enough is not None:
                self._again.append(self._questions[trace.question_id])

    def answers(self, open_teacher: Callable[[Step], Engine]) -> Iterator[Answered]:
        """Ask for all that is owed, one step after the other, until a cap is reached; ``open_teacher`` is called when
        there is something to ask for. Every row that is yielded has to be reported to ``came`` before the next."""
        for step in self.steps:
            self._step, fresh = step, iter(self._questions.values())
            self._again.clear()
            # An engine that was given all there was comes back for what its answers have brought up.
            while (first := next(wanted := self._wanted(step, fresh), None)) is not None:
                yield from put(open_teacher(step), chain([first], wanted), step.sampling)
            if self.capped:
                return

    def next_step(self) -> Step | None:
        """The step that has something to ask; None where nothing is owed, or nothing can be paid (``capped``)."""
        for step in self.steps:
            for question in self._questions.values():
                for sample in self._owed(question, step):
                    key = row_id(question.id, sample)
                    fits = self.spending.begin(key, step.teacher, self._messages(question, step), step.sampling)
                    self.spending.end(key)
                    self._step, self.capped = step, not fits
                    return step if fits else None
        return None

    def missing(self) -> int:
        """How many rows of the step that was begun last could be asked for now."""
        return sum(len(self._owed(question, self._step)) for question in self._questions.values())

    def unfinished(self) -> int:
        """How many questions are still owed samples of the step that was begun last."""
        return sum(bool(self._owed(question, self._step)) for question in self._questions.values())

    def over(self, question_id: str) -> bool:
        """Whether this run asks a question no more."""
        question, at = self._questions[question_id], self.steps.index(self._step)
        return not self._in_flight[question_id] and not any(self._owed(question, step) for step in self.steps[at:])

    def _wanted(self, step: Step, fresh: Iterator[Question]) -> Iterator[Wanted]:
        """What is owed and can be paid now. It ends, and does not wait, where all that is owed depends on answers."""
        while (question := self._again.popleft() if self._again else next(fresh, None)) is not None:
            for sample in self._owed(question, step):
                key, messages = row_id(question.id, sample), self._messages(question, step)
                if not self.spending.begin(key, step.teacher, messages, step.sampling):
                    self._again.appendleft(question)
                    self.capped = not self._flying  # else what is in flight may turn out cheaper
                    return
                self._flying.add(key)
                self._in_flight[question.id] += 1
                yield question, sample, messages

    def _owed(self, question: Question, step: Step) -> list[int]:
        """The samples of a question to be asked for now."""
        if question.id in self._failed or (step.hint and question.gold is None):
            return []
        ids = ((number, row_id(question.id, number)) for number in step.numbers)
        free = (number for number, key in ids if key not in self._there and key not in self._flying)
        if step.enough is None:
            return list(free)
        if question.id in self._settled:
            return []
        if any(trace.sample < step.first for trace, _ in self._good.get(question.id, ())):
            return []
        lacking = step.enough - self._successes(question) - self._in_flight[question.id]
        return list(islice(free, max(0, lacking)))

    def _successes(self, question: Question) -> int:
        good = sorted(self._good.get(question.id, ()), key=lambda pair: pair[0].sample)
        kept = [verdict for verdict in drop_duplicates(good) if verdict.status in TEACHES]
        if question.gold is not None or len(kept) < 2:
            return len(kept)
        texts = {trace.id: trace.reasoning for trace, _ in good}
        kind, markers = gold_of(question)[1], all_markers(self._verify)
        said = [find_answer(texts[v.trace_id], kind, markers=markers, choices=question.choices) for v in kept]
        return max(sum(same_answer(one, other) for other in said) for one in said)
