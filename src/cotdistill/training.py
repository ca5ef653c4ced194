"""Training: LoRA on Examples, by one transformers.Trainer subclass.

The loss is the mean negative log-likelihood, in nats per answer token, over all answer tokens of an optimizer
step, however they are spread over its micro-batches (chain-of-thought fine-tuning as in Ho et al. 2022).
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from cotdistill.adapter import attach, save_adapter
from cotdistill.card import AdapterCard
from cotdistill.checkpoint import EVERY, Seal, newest, run_id
from cotdistill.disk import explained
from cotdistill.errors import TrainingError
from cotdistill.example import Example, answer_tokens
from cotdistill.hardware import Placement
from cotdistill.identity import model_hash
from cotdistill.loss import AnswerLoss, choose
from cotdistill.model import Model
from cotdistill.order import Order, blank
from cotdistill.ranks import here
from cotdistill.recipe import TrainSettings

log = logging.getLogger(__name__)


class TrainResult(msgspec.Struct, frozen=True):
    """``losses`` is (optimizer step, nats per answer token); ``tokens`` counts all ids trained on, prompts too."""

    steps: int
    examples: int
    answer_tokens: int
    tokens: int
    seconds: float
    losses: list[tuple[int, float]]
    targets: str

    @property
    def final_loss(self) -> float:
        return self.losses[-1][1]


class Progress(msgspec.Struct, frozen=True):
    """One optimizer step, for whoever shows it."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


class AnswerTrainer(Trainer):
    """Trainer over Examples, with ``AnswerLoss``. A batch is ``{"rows": [Example, ...]}``: how the rows lie in memory
    is the loss's own affair."""

    def __init__(self, *args: Any, order: Order, loss: AnswerLoss, **kwargs: Any) -> None:
        super().__init__(*args, data_collator=lambda rows: {"rows": rows}, **kwargs)
        self._order = order
        self._loss = loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self._order

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Answer tokens of the whole optimizer step, in all processes."""
        tokens = sum(answer_tokens(row) for batch in batch_samples for row in batch["rows"])
        total: torch.Tensor = self.accelerator.gather(torch.tensor([tokens], device=device)).sum()
        return total

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward, one group of rows after the other, so that only one is in memory."""
        groups = self._loss.groups(inputs["rows"]) if self.accelerator.num_processes == 1 else [inputs["rows"]]
        step = super().training_step
        return torch.stack([step(model, {"rows": rows}, num_items_in_batch) for rows in groups]).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # The token count is that of all processes, whose gradients are averaged.
        return self._loss(model, inputs["rows"]) / num_items_in_batch * self.accelerator.num_processes


class Watch(TrainerCallback):
    """Stops on a loss that cannot be right, and reports progress."""

    def __init__(self, tokens_per_epoch: int, show: Callable[[Progress], None]) -> None:
        self._show = show
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
        self._show(Progress(state.global_step, state.max_steps, loss, done / seconds))


def train(
    model: Model,
    examples: Sequence[Example],
    settings: TrainSettings,
    output_dir: Path,
    *,
    system_prompt: str,
    placement: Placement,
    show: Callable[[Progress], None] = lambda progress: None,
    trust_remote_code: bool = False,
) -> TrainResult:
    """Train a LoRA adapter and save it to ``output_dir``; resumes from the newest complete checkpoint in
    ``output_dir/checkpoints``.

    Raises ``TrainingError`` when a loss is not finite or exactly zero, or when the adapter did not move.
    """
    if not examples or not any(map(answer_tokens, examples)):
        raise TrainingError("no example has an answer token to learn from")
    ranks = here()
    batch_size, accumulation = ranks.share(settings.batch_size, settings.gradient_accumulation_steps)
    order = Order(len(examples), settings.seed, batch_size * ranks.size if ranks.size > 1 else 1)
    set_seed(settings.seed)
    adapted, targets = attach(model, settings.lora, gradient_checkpointing=settings.gradient_checkpointing)
    checkpoints = output_dir / "checkpoints"
    steps_per_epoch = math.ceil(
        math.ceil(len(examples) / settings.batch_size) / settings.gradient_accumulation_steps
    )
    steps = math.ceil(steps_per_epoch * settings.num_epochs)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=settings.num_epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=min(int(settings.warmup_ratio * steps), steps - 1),  # the first warm-up step learns nothing
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=EVERY,
        bf16=placement.dtype == "bfloat16",
        fp16=placement.dtype == "float16",
        use_cpu=placement.device == "cpu",
        ddp_find_unused_parameters=False,  # every adapted layer is in every forward pass
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=placement.device == "cuda",
    )
    tokens_per_epoch = sum(len(e.input_ids) for e in examples)
    watch = Watch(tokens_per_epoch, show)
    adapted.train()
    loss = choose(adapted, examples, model.template.pad_id, pack=placement.device == "cpu")
    run = run_id([model_hash(model.directory), settings], examples)
    trainer = AnswerTrainer(
        model=adapted,
        args=arguments,
        order=order,
        train_dataset=[*examples, *[blank(model.template.pad_id)] * order.blank],
        loss=loss,
        callbacks=[watch, Seal(run)],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.monotonic()
    resumed = newest(checkpoints, run) if ranks.first else None
    step = ranks.told(int(resumed.name.rpartition("-")[2]) if resumed else 0)
    if step:
        log.info("going on from step %d", step)
        # accelerate tells the epoch to the sampler of every loader but the sharded one that skips what was done.
        order.set_epoch(step // steps_per_epoch)
    with loss, explained("write", checkpoints):
        trainer.train(resume_from_checkpoint=str(checkpoints / f"checkpoint-{step}") if step else None)
    seconds = time.monotonic() - start
    _check_moved(adapted)
    adapted.eval()
    card = AdapterCard(
        system_prompt=system_prompt,
        template_hash=model.template.hash,
        base_hash=model_hash(model.directory),
        base_name=model.directory.name,
        trust_remote_code=trust_remote_code,
    )
    with explained("write", output_dir):
        save_adapter(adapted, output_dir, card)
    trainer.accelerator.wait_for_everyone()
    history = [(int(h["step"]), float(h["loss"])) for h in trainer.state.log_history if "loss" in h]
    epochs = settings.num_epochs
    return TrainResult(
        steps=trainer.state.global_step,
        examples=len(examples),
        answer_tokens=int(sum(map(answer_tokens, examples)) * epochs),
        tokens=int(tokens_per_epoch * epochs),
        seconds=seconds,
        losses=history,
        targets=targets,
    )


def _check_moved(adapted: Any) -> None:
    """LoRA's B starts at zero; one that is still zero everywhere was never trained (peft #1402)."""
    still = [n for n, p in adapted.named_parameters() if ".lora_B." in n and not torch.any(p.detach() != 0)]
    if still:
        raise TrainingError(f"{len(still)} LoRA layers were not trained, first {still[0]}")
