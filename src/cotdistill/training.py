"""Training: LoRA on Examples, by one transformers.Trainer subclass (``learning.trainer``).

The loss is that of the objective (``learning.terms``), in nats per answer token; for ``sft`` the mean negative
log-likelihood (Ho et al. 2022).
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import TrainerState, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

from cotdistill.adapter import attach, save_adapter
from cotdistill.card import AdapterCard
from cotdistill.errors import TrainingError
from cotdistill.example import Example, answer_tokens, validation_split
from cotdistill.hardware import Placement
from cotdistill.identity import model_hash
from cotdistill.learning.best import Best
from cotdistill.learning.checkpoint import EVERY, Seal, newest, run_id
from cotdistill.learning.heap import give_back
from cotdistill.learning.loss import AnswerLoss, choose
from cotdistill.learning.order import Order, blank
from cotdistill.learning.ranks import here
from cotdistill.learning.terms import Terms
from cotdistill.learning.trainer import AnswerTrainer, terms_in
from cotdistill.learning.watch import Progress, Watch, peak_memory
from cotdistill.model import Model
from cotdistill.settings.train import TrainSettings
from cotdistill.storage.disk import explained

log = logging.getLogger(__name__)


class TrainResult(msgspec.Struct, frozen=True):
    """``losses`` is (optimizer step, nats per answer token), ``validation`` the same on the validation questions, where
    ``best_step`` did best; ``terms`` holds those of each term, where the loss has several; ``tokens`` counts all ids
    trained on, prompts too. ``peak_memory`` is in bytes, of the GPUs where there are any, else of the process; 0 where
    the system does not say."""

    steps: int
    examples: int
    answer_tokens: int
    tokens: int
    seconds: float
    losses: list[tuple[int, float]]
    targets: str
    validation: list[tuple[int, float]] = []
    best_step: int | None = None
    peak_memory: int = 0
    terms: dict[str, list[tuple[int, float]]] = {}


def train(
    model: Model,
    examples: Sequence[Example],
    settings: TrainSettings,
    output_dir: Path,
    *,
    system_prompt: str,
    placement: Placement,
    objective: Callable[[AnswerLoss, Any], Terms] = Terms,
    show: Callable[[Progress], None] = lambda progress: None,
    trust_remote_code: bool = False,
) -> TrainResult:
    """Train a LoRA adapter and save it to ``output_dir``; resumes from the newest complete checkpoint in
    ``output_dir/checkpoints``. ``objective`` makes the terms of the loss for the adapted model. The tracker is told
    by the first process.

    Raises ``TrainingError`` when a loss is not finite or exactly zero, or when the adapter did not move.
    """
    run = run_id([model_hash(model.directory), settings.claimed], examples)
    examples, tried = validation_split(examples, settings.validation, settings.seed)
    if not any(map(answer_tokens, examples)):
        raise TrainingError("no example has an answer token to learn from")
    ranks = here()
    batch_size, accumulation = ranks.per_process_batch(settings.batch_size, settings.gradient_accumulation_steps)
    if placement.device == "cpu":
        give_back()
    set_seed(settings.seed)
    adapted, targets = attach(model, settings.lora, gradient_checkpointing=settings.gradient_checkpointing)
    checkpoints = output_dir / "checkpoints"
    steps_per_epoch, steps = settings.steps(len(examples))
    arguments = _arguments(settings, placement, batch_size, accumulation, steps, checkpoints)
    tokens_per_epoch = sum(len(e.input_ids) for e in examples)
    watch = Watch(tokens_per_epoch, placement.device, show)
    adapted.train()
    loss = choose(adapted, examples, model.template.pad_id, pack=placement.device == "cpu")
    lengths = [] if loss.packed else [len(example.input_ids) for example in examples]
    order = Order(
        len(examples), settings.seed, batch_size * ranks.size if ranks.size > 1 else 1, lengths=lengths,
        window=settings.batch_size * settings.gradient_accumulation_steps,
    )  # fmt: skip
    best = Best(
        tried, loss, batch_size=settings.batch_size, per_epoch=steps_per_epoch, patience=settings.patience
    )
    trainer = AnswerTrainer(
        model=adapted,
        args=arguments,
        order=order,
        train_dataset=[*examples, *[blank(model.template.pad_id)] * order.blank],
        terms=objective(loss, adapted),
        callbacks=[watch, *([best] if tried else []), Seal(run)],
    )
    trainer.remove_callback(PrinterCallback)
    best.log = trainer.log
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):  # by itself it writes among the checkpoints, which go
            callback.logging_dir = callback.logging_dir or str(output_dir / "logs")
    start = time.monotonic()
    resumed = newest(checkpoints, run) if ranks.first else None
    step = ranks.broadcast(int(resumed.name.rpartition("-")[2]) if resumed else 0)
    if step:
        log.info("going on from step %d", step)
        # accelerate tells the epoch to the sampler of every loader but the sharded one that skips what was done.
        order.set_epoch(step // steps_per_epoch)
    checkpoint = checkpoints / f"checkpoint-{step}"
    best.resume(checkpoint)
    if best.used_up:  # it had stopped before its end, and was killed before the adapter was saved
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    else:
        with loss, explained("write", checkpoints):
            trainer.train(resume_from_checkpoint=str(checkpoint) if step else None)
    best.put_back(adapted)
    seconds = time.monotonic() - start
    _check_moved(adapted)
    adapted.eval()
    card = AdapterCard(
        system_prompt=system_prompt,
        template_hash=model.template.hash,
        base_hash=model_hash(model.directory),
        base_name=model.directory.name,
        trust_remote_code=trust_remote_code,
        thinking=model.template.thinking,
    )
    with explained("write", output_dir):
        save_adapter(adapted, output_dir, card)
    trainer.accelerator.wait_for_everyone()
    history = [(int(h["step"]), float(h["loss"])) for h in trainer.state.log_history if "loss" in h]
    epochs = trainer.state.epoch or 0.0
    return TrainResult(
        steps=trainer.state.global_step,
        examples=len(examples),
        answer_tokens=round(sum(map(answer_tokens, examples)) * epochs),
        tokens=round(tokens_per_epoch * epochs),
        seconds=seconds,
        losses=history,
        targets=targets,
        validation=best.history,
        best_step=best.step,
        peak_memory=peak_memory(placement.device),
        terms=terms_in(trainer.state.log_history),
    )


def _arguments(
    settings: TrainSettings, placement: Placement, batch_size: int, accumulation: int, steps: int, checkpoints: Path
) -> TrainingArguments:
    """The settings in the Trainer's words; ``batch_size`` and ``accumulation`` are those of one process."""
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=settings.num_epochs,
        learning_rate=settings.learning_rate,
        optim="adamw_bnb_8bit" if settings.optim == "adamw_8bit" else "adamw_torch_fused",
        lr_scheduler_type="constant_with_warmup" if settings.lr_scheduler == "constant" else settings.lr_scheduler,
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
        report_to=settings.report_to,
        project="cotdistill",
        run_name="-".join(checkpoints.parent.resolve().parts[-2:]),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=placement.device == "cuda",
        **placement.kernels(),
    )
    if arguments.n_gpu > 1:  # by itself each of the GPUs that one process sees would get a batch of its own
        arguments._n_gpu = 1
    return arguments


def _check_moved(adapted: Any) -> None:
    """LoRA's B starts at zero; one that is still zero everywhere was never trained (peft #1402)."""
    still = [n for n, p in adapted.named_parameters() if ".lora_B." in n and not torch.any(p.detach() != 0)]
    if still:
        raise TrainingError(f"{len(still)} LoRA layers were not trained, first {still[0]}")
