"""Watch: what is said after every optimizer step, and the losses that stop a training.

    Progress(step=12, steps=87, loss=0.596, tokens_per_second=140.0, peak_memory=1900000000)
"""

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from transformers import TrainerCallback

from cotdistill import machine
from cotdistill.errors import TrainingError


class Progress(msgspec.Struct, frozen=True):
    """One optimizer step, for whoever shows it."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    peak_memory: int


class Watch(TrainerCallback):
    """Stops on a loss that cannot be right, and reports progress."""

    def __init__(self, tokens_per_epoch: int, device: str, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._device = device
        self._tokens_per_epoch = tokens_per_epoch
        self._start = time.monotonic()
        self._first_epoch = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = time.monotonic()
        self._first_epoch = state.epoch or 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss) or loss == 0.0:
            raise TrainingError(
                f"the loss at step {state.global_step} is {loss}: "
                "nothing is being learned; check the learning rate and that examples have answer tokens"
            )
        seconds = max(time.monotonic() - self._start, 1e-9)
        done = ((state.epoch or 0.0) - self._first_epoch) * self._tokens_per_epoch
        self._show(Progress(state.global_step, state.max_steps, loss, done / seconds, peak_memory(self._device)))


def peak_memory(device: str) -> int:
    """The most bytes that were used at a time, of the GPUs' memory or of the machine's."""
    if device == "cuda":
        return sum(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))
    return machine.peak_memory()
