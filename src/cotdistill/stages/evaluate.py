"""adapter --evaluate--> predictions: one model answers every held-out question."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cotdistill.asking.ask import Account, row_id
from cotdistill.card import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from cotdistill.engines import Sampling
from cotdistill.engines.server import Server
from cotdistill.journal import read_rows
from cotdistill.prediction import Prediction, predict
from cotdistill.progress import Bar
from cotdistill.prompt import Shot, shots_hash
from cotdistill.question import Question
from cotdistill.stages.models import OpenEngine, cost, engine_and_format
from cotdistill.storage.keys import Keys
from cotdistill.storage.manifest import Manifest, file_hash


def run_evaluate(
    name: str,
    questions: Sequence[Question],
    path: Path,
    manifest: Manifest,
    *,
    model: dict[str, str],
    adapter: Path | None = None,
    system_prompt: str,
    shots: Sequence[Shot] = (),
    sampling: Sampling,
    num_samples: int = 1,
    batch_size: int,
    open_model: OpenEngine,
    server: Server | None = None,
    unasked: Sequence[Question] = (),
    load_in_4bit: bool | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Prediction]:
    """One model's answers to every question, in ``path`` and returned in the order of the questions, each question's
    samples together. ``server`` and ``unasked`` are as for ``run_generate``; answers to unasked questions are not
    returned."""
    stage = f"evaluate/{name}"
    claimed = {
        "model": model,
        "adapter": file_hash(adapter / ADAPTER_WEIGHTS) if adapter else None,
        "adapter_config": file_hash(adapter / ADAPTER_CONFIG) if adapter else None,
        "load_in_4bit": load_in_4bit,
        "trust_remote_code": trust_remote_code,
        "system_prompt": system_prompt,
        "batch_size": batch_size,
        "sampling": msgspec.to_builtins(sampling),
        "few_shot": shots_hash(shots) if shots else None,
        "num_samples": num_samples,
    }
    manifest.claim(stage, claimed, overwrite=overwrite, files=[path], holds=Prediction)
    ids = [question.id for question in questions]
    before = Account(path, Prediction, Keys(question.id for question in (*questions, *unasked)))
    planned = [(question_id, sample) for question_id in ids for sample in range(num_samples)]
    owed = before.owed(row_id(*one) for one in planned)
    if not owed and manifest.done(stage):
        return _answers(path, planned)
    right = answered = 0
    engine = open_model()
    manifest.begin(stage, planned=len(planned), engine=engine_and_format(engine))
    with Bar(name, len(planned), len(planned) - owed, quiet=quiet) as bar:

        def show(row: Prediction) -> None:
            nonlocal right, answered
            answered += 1
            right += bool(row.correct)
            bar.step(f"{right} of {answered} right" if row.correct is not None else "", tokens=row.completion_tokens)

        predict(
            engine, questions, path, system=system_prompt, shots=shots, sampling=sampling, num_samples=num_samples,
            show=show,
        )  # fmt: skip
    answers = _answers(path, planned)
    prompt_tokens = sum(row.prompt_tokens for row in answers)
    completion_tokens = sum(row.completion_tokens for row in answers)
    manifest.finish(
        stage,
        engine=engine.describe(),
        rows=len(planned),
        errors=sum(row.finish == "error" for row in answers),
        **cost(prompt_tokens, completion_tokens, server),
    )
    return answers


def _answers(path: Path, planned: Sequence[tuple[str, int]]) -> list[Prediction]:
    rows = {(row.question_id, row.sample): row for row in read_rows(path, Prediction)}
    return [rows[one] for one in planned if one in rows]
