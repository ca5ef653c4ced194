"""Best: how well the adapter does on the validation questions, after each epoch, and which one did best.

    step 14: 0.912 nats    step 28: 0.874 <- best    step 42: 0.889    patience 1: training stops, step 28 is kept

The best weights so far and all measurements lie in every checkpoint (``best.safetensors``), so a training that is
gone on with knows what it knew at that step, no more and no less.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from cotdistill.errors import TrainingError
from cotdistill.example import Example, answer_tokens
from cotdistill.learning.loss import AnswerLoss, without_dropout
from cotdistill.learning.ranks import here

FILE = "best.safetensors"


class Best(TrainerCallback):
    """Tries the adapter on ``rows`` at the end of each epoch of ``per_epoch`` steps, and keeps the best one.

    All processes compute the same and act on what the first one found.
    """

    def __init__(
        self, rows: Sequence[Example], loss: AnswerLoss, *, batch_size: int, per_epoch: int, patience: int | None
    ) -> None:
        ordered = sorted(rows, key=lambda example: len(example.input_ids))  # rows of one length need no padding
        self._batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
        self._tokens = sum(map(answer_tokens, rows))
        self._loss = loss
        self._per_epoch = per_epoch
        self._patience = patience
        self._weights: dict[str, torch.Tensor] = {}
        self.history: list[tuple[int, float]] = []
        """(optimizer step, nats per answer token)."""
        self.log: Callable[[dict[str, float]], None] = lambda values: None

    @property
    def step(self) -> int | None:
        """The step of the best adapter so far, the first of equals; None before the first measurement."""
        return min(self.history, key=lambda measured: measured[1])[0] if self.history else None

    @property
    def used_up(self) -> bool:
        """Whether the patience is used up, so that training stops."""
        since = sum(step > (self.step or 0) for step, _ in self.history)
        return self._patience is not None and since >= self._patience

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        # Not at the end of the epoch: the checkpoint of this step is written before that, and is to hold this.
        if state.global_step % self._per_epoch and state.global_step != state.max_steps:
            return
        nats = here().broadcast(round(self._measure(model) * 1e6)) / 1e6
        self.history.append((state.global_step, nats))
        due = control.should_log
        self.log({"eval_loss": nats})
        control.should_log = due  # the Trainer takes this for the log of the step
        if self.step == state.global_step:
            self._weights = {name: _whole(value).clone() for name, value in _trained(model).items()}
        control.should_training_stop = control.should_training_stop or self.used_up

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from safetensors.torch import save_file

        if self.history and state.is_world_process_zero:
            directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_file(self._weights, directory / FILE, {"validation": json.dumps(self.history)})

    def resume(self, checkpoint: Path) -> None:
        """Know what the training knew at this checkpoint."""
        from safetensors import safe_open

        if (checkpoint / FILE).exists():
            with safe_open(checkpoint / FILE, framework="pt") as file:
                self._weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                self.history = [(int(step), float(nats)) for step, nats in json.loads(file.metadata()["validation"])]

    def put_back(self, model: Any) -> None:
        """Give the model the best weights."""
        if not self.history:
            return
        with torch.no_grad():
            for name, value in _trained(model).items():
                best = self._weights[name].to(value.device)
                value.copy_(
                    distribute_tensor(best, value.device_mesh, value.placements) if isinstance(value, DTensor) else best
                )

    def _measure(self, model: Any) -> float:
        """Mean nats per answer token."""
        total = 0.0
        with without_dropout(model), torch.no_grad():
            for batch in self._batches:
                total += sum(float(self._loss(model, group)) for group in self._loss.groups(batch))
        if not math.isfinite(total):
            raise TrainingError(f"the loss on the validation questions is {total}; check the learning rate")
        return total / self._tokens


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _whole(value: torch.Tensor) -> torch.Tensor:
    """A weight in main memory; under FSDP, where each process holds a part, all of them put it together."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
