"""Lesson: what a student is to learn, as text and as tokens: traces and, for ``step_by_step``, their answers alone."""

from collections.abc import Sequence

import msgspec

from cotdistill.example import Example, Examples, build_examples
from cotdistill.learning.lint import Lint, lint
from cotdistill.prompt import LABEL_PROMPT
from cotdistill.settings.train import TrainSettings
from cotdistill.template import ChatTemplate
from cotdistill.verdict import TaughtText


class Lesson(msgspec.Struct, frozen=True):
    """``examples`` are made of ``pairs`` under the prompt ``system``, ``at_once`` of ``labels``, if there are any."""

    template: ChatTemplate
    system: str
    pairs: Sequence[TaughtText]
    examples: Examples
    labels: Sequence[TaughtText] = ()
    at_once: Examples | None = None

    @classmethod
    def of(
        cls, template: ChatTemplate, pairs: Sequence[TaughtText], labels: Sequence[TaughtText], *, system: str,
        max_length: int,
    ) -> "Lesson":
        """Raises ``TrainingError`` where nothing is left, or too much does not fit."""
        examples = build_examples(template, pairs, system=system, max_length=max_length)
        if not labels:
            return cls(template, system, pairs, examples)
        at_once = build_examples(template, labels, system=LABEL_PROMPT, max_length=max_length, task="label")
        return cls(template, system, pairs, examples, labels, at_once)

    @property
    def rows(self) -> list[Example]:
        """All that is trained."""
        return [*self.examples.kept, *(self.at_once.kept if self.at_once else ())]

    def lint(self, settings: TrainSettings, max_new_tokens: int) -> Lint:
        """The lint of both tasks."""
        if self.at_once is None:
            return lint(
                self.template, self.pairs, self.examples, settings, system=self.system, max_new_tokens=max_new_tokens
            )
        short = lint(
            self.template, self.labels, self.at_once, settings, system=LABEL_PROMPT, max_new_tokens=max_new_tokens
        )
        whole = lint(
            self.template, self.pairs, self.examples, settings, system=self.system, max_new_tokens=max_new_tokens,
            beside=self.at_once.kept,
        )  # fmt: skip
        return msgspec.structs.replace(whole, errors=[*whole.errors, *short.errors])
