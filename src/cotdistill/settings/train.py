"""How a student is trained."""

import math
from typing import Any, Literal

import msgspec

from cotdistill.bounds import Count, Length, Positive, Rate, Seed, Share
from cotdistill.settings.lora import Lora
from cotdistill.settings.objective import (
    AutoSettings,
    Objective,
    OfflineSettings,
    OnPolicySettings,
    SelfSettings,
    StepByStepSettings,
)

Target = Literal["reasoning", "answer", "thinking"]
"""What a student learns to write: the trace, its final line alone, or the trace after what its author thought first."""

Scheduler = Literal["cosine", "linear", "constant"]
"""What becomes of the learning rate after the warm-up."""

Optimizer = Literal["adamw", "adamw_8bit"]
"""``adamw_8bit`` (bitsandbytes; Dettmers et al. 2022) keeps its state in a quarter of the memory."""


Tracker = Literal["none", "tensorboard", "trackio", "wandb"]
"""Who else is shown the loss, through the Trainer's own integration."""


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to train; the defaults are those of the scripts. ``warmup_ratio`` is a share of all steps.

    ``validation`` is the share of questions that are not trained on but tried after each epoch: the adapter that did
    best on them is kept. With ``patience``, training stops after so many epochs without a better one.

    ``target`` "answer" trains on the final line alone, without the reasoning: the arm that shows what the
    reasoning is worth. "thinking" trains on what a teacher thought, between the tags, and on the answer behind it.
    """

    num_epochs: Positive = 3.0
    batch_size: Count = 4
    gradient_accumulation_steps: Count = 4
    learning_rate: Rate = 2e-4
    warmup_ratio: Share = 0.03
    lr_scheduler: Scheduler = "cosine"
    optim: Optimizer = "adamw"
    max_length: Length = 1024
    gradient_checkpointing: bool = False
    seed: Seed = 42
    target: Target = "reasoning"
    validation: Share = 0.0
    patience: Count | None = None
    report_to: Tracker = "none"
    lora: Lora = Lora()
    objective: Objective = "sft"
    step_by_step: StepByStepSettings = StepByStepSettings()
    on_policy: OnPolicySettings = OnPolicySettings()
    offline_kd: OfflineSettings = OfflineSettings()
    reject_on_student: SelfSettings = SelfSettings()
    auto: AutoSettings = AutoSettings()

    def __post_init__(self) -> None:
        if self.target != "reasoning" and self.objective != "sft":
            raise ValueError(
                f"the target {self.target} is for the objective sft: {self.objective} is about the reasoning"
            )
        if self.patience and not self.validation:
            raise ValueError("patience needs validation, a share of the questions to try the adapter on")

    @property
    def thinks(self) -> bool:
        """Whether the student learns to think first, and is asked so."""
        return self.target == "thinking"

    @property
    def tried(self) -> tuple[Objective, ...]:
        """What the student is trained for: the one objective, or each rung of ``auto``."""
        return self.auto.rungs if self.objective == "auto" else (self.objective,)

    @property
    def claimed(self) -> dict[str, Any]:
        """What a record holds of it: all but the tracker and the options of objectives that were not chosen."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        sections = {"step_by_step", "on_policy", "offline_kd", "reject_on_student", "auto"}
        unused = sections - {self.objective, *self.tried}
        return {key: value for key, value in plain.items() if key not in unused | {"report_to"}}

    def top_k(self, objective: Objective) -> int:
        """How many of the teacher's tokens the objective tells apart."""
        return self.on_policy.top_k if objective == "on_policy" else self.offline_kd.top_k

    def steps(self, rows: int) -> tuple[int, int]:
        """Optimizer steps of one epoch over ``rows``, and of the whole training."""
        epoch = math.ceil(math.ceil(rows / self.batch_size) / self.gradient_accumulation_steps)
        return epoch, math.ceil(epoch * self.num_epochs)
