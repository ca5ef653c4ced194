"""Answer only: a second student, taught the final lines alone, so that the report can say what the reasoning is worth.

    4_answer_only.jsonl  5_answer_only/  6_predictions/answer_only.jsonl

The same questions, settings and number of epochs as the student's, with ``sft`` on "Final Answer: 36" in the place of
the reasoning: the plain fine-tuning that Hsieh et al. 2023 and Ho et al. 2022 compare with. It is no rung of a ladder.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cotdistill.settings.evaluate import ANSWER_ONLY
from cotdistill.settings.train import TrainSettings

if TYPE_CHECKING:
    from cotdistill.stages.teaching import Teaching

STAGE = f"train/{ANSWER_ONLY}"
ADAPTER = f"5_{ANSWER_ONLY}"
EXAMPLES = f"4_{ANSWER_ONLY}.jsonl"


def answer_only_settings(train: TrainSettings) -> TrainSettings:
    """Those of the student, for the final lines; every other objective is about the reasoning."""
    return msgspec.structs.replace(train, target="answer", objective="sft")


def train_answer_only(teaching: "Teaching") -> None:
    """Train the second student where the recipe asks for one; nothing where it does not, or where it is there."""
    recipe = teaching.recipe
    if recipe.evaluate.answer_only:
        settings, directory = answer_only_settings(recipe.train), teaching.directory
        teaching.train(settings, directory / ADAPTER, directory / EXAMPLES, STAGE)


def adapter_beside(student: Path) -> Path:
    """Where the second student is, beside the adapter of the first."""
    return student.with_name(ADAPTER)
