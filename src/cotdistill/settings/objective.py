"""What a student is trained for, and the settings of each objective that has its own."""

from typing import Literal

import msgspec

from cotdistill.bounds import Count, Rate, Share, Temperature

Objective = Literal["sft", "step_by_step", "on_policy", "offline_kd", "reject_on_student"]
"""What a student is trained for; see ``objectives``."""


class OnPolicySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``student_share`` (lambda) of the rows are answers that the student writes, of at most ``max_new_tokens``; the
    others are traces. ``beta``: 0 is KL(teacher || student), 1 the reverse, between them lies the generalised JSD.
    ``top_k`` of the teacher's tokens are told apart, the others are one."""

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
    """The student answers every training question ``num_samples`` times; its right answers teach it where no trace of
    the teacher does, or ``alone``."""

    num_samples: Count = 4
    temperature: Temperature = 0.7
    alone: bool = False

    def __post_init__(self) -> None:
        if not self.temperature:
            raise ValueError("the student's own samples need a temperature above 0: greedy ones are all the same")
