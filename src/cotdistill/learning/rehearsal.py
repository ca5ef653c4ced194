"""Rehearsal: a training that does not take place, checked and counted without the student's weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotdistill.errors import SetupError
from cotdistill.learning.lesson import Lesson
from cotdistill.learning.lint import LONGEST_ANSWER, Lint
from cotdistill.settings.train import TrainSettings
from cotdistill.shown import cause_of
from cotdistill.template import ChatTemplate, read_tokenizer
from cotdistill.verdict import TaughtText


def rehearse(
    student: Path, pairs: Sequence[TaughtText], settings: TrainSettings, *, system: str,
    labels: Sequence[TaughtText] = (), trust_remote_code: bool = False,
) -> Lint:  # fmt: skip
    """The lint of that training. Of the student only the tokenizer and the names of its layers are loaded. Raises
    ``SetupError`` for layers that it does not have."""
    from cotdistill.adapter import choose_targets
    from cotdistill.model import check_directory, context_of, read_config

    check_directory(student, trust_remote_code)
    template = ChatTemplate(
        read_tokenizer(student, trust_remote_code=trust_remote_code), thinking=settings.thinks
    )
    config = read_config(student, trust_remote_code=trust_remote_code)
    if settings.lora.targets:
        choose_targets(_layers(config, trust_remote_code), settings.lora.targets)
    max_length = min(settings.max_length, context_of(config))
    lesson = Lesson.of(template, pairs, labels, system=system, max_length=max_length)
    return lesson.lint(settings, LONGEST_ANSWER)


def _layers(config: Any, trust_remote_code: bool) -> Any:
    """The model without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a model's own code fails in any way
        why = cause_of(error)
        raise SetupError(f"cannot look at the layers of the model, to find target_modules: {why}") from error
