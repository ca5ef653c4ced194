"""On policy: the student writes, the teacher says at every token what it would have written there.

    step 12, 16 rows: 7 traces of the teacher, 9 answers of the student of this step    ->    one JSD, token by token

Generalised knowledge distillation (GKD, Agarwal et al. 2023, arXiv:2306.13649): a student that learns from its own
text learns what to do after its own mistakes. ``student_share``, the paper's lambda, is the share of rows whose trace
gives way to an answer that the student of that very optimizer step samples at temperature 1.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cotdistill.engines import Sampling
from cotdistill.engines.transformers_engine import TransformersEngine
from cotdistill.example import Example, answer_tokens
from cotdistill.learning.layout import ordered
from cotdistill.learning.loss import AnswerLoss, without_dropout
from cotdistill.learning.ranks import here
from cotdistill.learning.teacher_scores import Scorer, Scores, together
from cotdistill.learning.terms import Terms, apart, divergences
from cotdistill.model import Model
from cotdistill.objectives import per_token
from cotdistill.settings.objective import OnPolicySettings


class OnPolicy(Terms):
    """``model`` is the student's, ``module`` the adapted one that writes and learns. No row gets longer than
    ``max_length``. ``shown`` is the row that the teacher reads in the place of another: the same answer under the
    teacher's own prompt."""

    names = ("traces", "samples")

    def __init__(
        self, loss: AnswerLoss, module: Any, *, model: Model, teacher: Scorer, settings: OnPolicySettings,
        max_length: int, seed: int, shown: Callable[[Example], Example] = lambda row: row,
    ) -> None:  # fmt: skip
        super().__init__(loss, module)
        self._model = model
        self._writer = TransformersEngine(model, module=module)
        self._teacher = teacher
        self._settings = settings
        self._max_length = max_length
        self._seed = seed
        self._shown = shown
        self._scores: dict[str, Scores] = {}
        self._samples: set[str] = set()

    def rows(self, rows: Sequence[Example], step: int) -> list[Example]:
        """The same rows, some with an answer that the student writes now; the teacher has scored all of them. What is
        drawn depends on the seed, the step and the process alone, so a training that is gone on with draws the same.
        Blank rows, which fill up the step of several processes, stay blank."""
        rng = random.Random(f"{self._seed} {step} {here().rank}")
        share = self._settings.student_share
        drawn = [i for i, row in enumerate(rows) if rng.random() < share and answer_tokens(row)]
        with here().together():
            answers = self._write([rows[i] for i in drawn], step, rng.getrandbits(63))
            written = dict(zip(drawn, answers, strict=True))
            now = [written.get(i, row) for i, row in enumerate(rows)]
            taught = [row for row in now if answer_tokens(row)]
            scores = self._teacher.score([self._shown(row) for row in taught])
        self._samples = {row.trace_id for row in written.values()}
        self._scores = dict(zip((row.trace_id for row in taught), scores, strict=True))
        return now

    def counts(self, rows: Sequence[Example]) -> list[int]:
        samples = sum(answer_tokens(row) for row in rows if row.trace_id in self._samples)
        return [sum(map(answer_tokens, rows)) - samples, samples]

    def sums(self, model: Any, rows: Sequence[Example]) -> torch.Tensor:
        rows = ordered(rows)
        scores = together([self._scores[row.trace_id] for row in rows if answer_tokens(row)])
        values = divergences(self._loss, model, rows, scores, self._settings.beta)
        return apart(values, [row.trace_id not in self._samples for row in rows], rows)

    def weights(self, counts: torch.Tensor) -> torch.Tensor:
        """Tokens count alike, whoever wrote them."""
        return per_token(counts.sum().expand_as(counts), torch.ones(len(counts), device=counts.device))

    def _write(self, rows: Sequence[Example], step: int, seed: int) -> list[Example]:
        """An answer of the student's to the question of each row, cut at its end of turn, and before an id that the
        teacher cannot read, as the rows of a padded matrix are."""
        if not rows:
            return []
        prompts = [row.input_ids[: row.prompt_length] for row in rows]
        room = min(self._settings.max_new_tokens, self._max_length - max(map(len, prompts)))
        sampling = Sampling(max_new_tokens=max(room, 1), do_sample=True, temperature=1.0)
        devices = [self._loss.device] if self._loss.device.type == "cuda" else []
        with self._loss.aside(), without_dropout(self._module), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            answers = self._writer.continued(prompts, sampling)
        stops, known = set(self._model.template.stop_ids), self._teacher.readable
        written = []
        for i, (row, prompt, answer) in enumerate(zip(rows, prompts, answers, strict=True)):
            end = next((at for at, token in enumerate(answer) if token in stops), len(answer))
            strange = next((at for at, token in enumerate(answer) if token not in known), len(answer))
            ids = prompt + answer[: min(end + 1, strange)]
            written.append(Example(f"{row.trace_id}@{step}.{i}", row.question_id, ids, len(prompt)))
        return written
