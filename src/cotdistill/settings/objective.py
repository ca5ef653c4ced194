"""What a student is trained for, and the settings of each objective that has its own."""

from typing import Literal

import msgspec

from cotdistill.bounds import Count, Rate, Share, Temperature

OneObjective = Literal["sft", "step_by_step", "on_policy", "offline_kd", "reject_on_student"]
"""What a student is trained for; see ``objectives``."""

Objective = Literal[OneObjective, "auto"]
"""``auto`` tries several and keeps what is best; see ``learning.ladder``."""

TOKEN_LEVEL: tuple[OneObjective, ...] = ("on_policy", "offline_kd")
"""The objectives that need the teacher's probabilities."""


class StepByStepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``alpha`` is the share of the loss that the answers alone have; the reasoning has the rest."""

    alpha: Share = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError("step_by_step needs an alpha between 0 and 1; at its ends one of its two tasks is missing")


class OnPolicySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``student_share`` (lambda) of the rows are answers that the student writes, of at most ``max_new_tokens``; the
    others are traces. ``beta``: 0 is KL(teacher || student), 1 the reverse, between them lies the generalised JSD.
    The ``top_k`` likeliest tokens of the teacher are told apart, all others count as one."""

    student_share: Share = 0.5
    beta: Share = 0.5
    top_k: Count = 32
    max_new_tokens: Count = 256


class OfflineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``weight`` is the share of the loss that the teacher's stored ``top_k`` probabilities have; the traces' tokens
    have the rest."""

    weight: Rate = 0.5
    top_k: Count = 32


class SelfSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The student answers every training question ``num_samples`` times; its right answers teach it the
    questions that no trace of the teacher does; with ``alone`` they are all that teaches."""

    num_samples: Count = 4
    temperature: Temperature = 0.7
    alone: bool = False

    def __post_init__(self) -> None:
        if not self.temperature:
            raise ValueError("the student's own samples need a temperature above 0: greedy ones are all the same")


class AutoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rungs`` are tried in this order, the cheap ones first, and compared on ``dev_share`` of the training questions,
    of at most ``max_dev``, which the student is not trained on."""

    dev_share: Share = 0.25
    max_dev: Count = 100
    rungs: tuple[OneObjective, ...] = ("sft", "step_by_step", "reject_on_student", "offline_kd", "on_policy")

    def __post_init__(self) -> None:
        if not 0 < self.dev_share < 1:
            raise ValueError("auto needs a dev_share between 0 and 1: some questions to learn from, some to choose on")
        if not self.rungs or len(set(self.rungs)) < len(self.rungs):
            raise ValueError("auto needs at least one rung, and none twice")
