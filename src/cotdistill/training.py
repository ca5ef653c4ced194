"""Training: LoRA on Examples, by one transformers.Trainer subclass.

The loss is the mean negative log-likelihood, in nats per answer token, over all answer tokens of an optimizer
step, however they are spread over its micro-batches (chain-of-thought fine-tuning as in Ho et al. 2022).
"""

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
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example
from cotdistill.hardware import Placement
from cotdistill.identity import model_hash
from cotdistill.model import Model
from cotdistill.recipe import TrainSettings


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


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded ``input_ids``, ``attention_mask`` and ``labels``, each (batch, longest). The masks come
    from lengths: the pad id may be the end-of-turn id, which must stay in the loss."""
    longest = max(len(example.input_ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORE)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length] = torch.tensor(example.input_ids)
        mask[row, :length] = 1
        labels[row, :length] = torch.tensor(example.labels)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class AnswerTrainer(Trainer):
    """Trainer whose loss is computed at answer positions only: on a small model most of the work of a
    training step is the projection to the vocabulary, and the prompt's share of it teaches nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the whole step's token count itself

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:  # fmt: skip
        labels = inputs["labels"][:, 1:]
        picked = labels != IGNORE
        head = self.accelerator.unwrap_model(model).get_base_model().get_output_embeddings()

        def answers_only(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            return (args[0][:, :-1][picked.to(args[0].device)][None],)

        # The whole wrapped model runs, not its parts: autocast, the exchange of gradients between processes
        # and what some models do to their logits (caps, scales) all happen in its forward.
        hook = head.register_forward_pre_hook(answers_only)
        try:
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            ).logits[0].float()  # fmt: skip
        finally:
            hook.remove()
        total = torch.nn.functional.cross_entropy(logits, labels[picked].to(logits.device), reduction="sum")
        if num_items_in_batch is None:
            loss = total / picked.sum()
        else:  # counted over all processes, whose gradients are averaged
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, {"logits": logits}) if return_outputs else loss


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
    if not examples or all(len(e.input_ids) == e.prompt_length for e in examples):
        raise TrainingError("no example has an answer token to learn from")
    set_seed(settings.seed)
    adapted, targets = attach(model, settings.lora, gradient_checkpointing=settings.gradient_checkpointing)
    checkpoints = output_dir / "checkpoints"
    steps_per_epoch = math.ceil(
        math.ceil(len(examples) / settings.batch_size) / settings.gradient_accumulation_steps
    )
    steps = math.ceil(steps_per_epoch * settings.num_epochs)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.num_epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=min(int(settings.warmup_ratio * steps), steps - 1),  # the first warm-up step learns nothing
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="epoch",
        save_total_limit=2,
        bf16=placement.dtype == "bfloat16",
        fp16=placement.dtype == "float16",
        use_cpu=placement.device == "cpu",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=placement.device == "cuda",
    )
    tokens_per_epoch = sum(len(e.input_ids) for e in examples)
    watch = Watch(tokens_per_epoch, show)
    trainer = AnswerTrainer(
        model=adapted,
        args=arguments,
        train_dataset=list(examples),
        data_collator=lambda batch: collate(batch, model.template.pad_id),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.monotonic()
    adapted.train()
    trainer.train(resume_from_checkpoint=newest_checkpoint(checkpoints))
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
    if trainer.is_world_process_zero():
        save_adapter(adapted, output_dir, card)
    trainer.accelerator.wait_for_everyone()
    history = [(int(h["step"]), float(h["loss"])) for h in trainer.state.log_history if "loss" in h]
    epochs = settings.num_epochs
    return TrainResult(
        steps=trainer.state.global_step,
        examples=len(examples),
        answer_tokens=int(sum(len(e.input_ids) - e.prompt_length for e in examples) * epochs),
        tokens=int(tokens_per_epoch * epochs),
        seconds=seconds,
        losses=history,
        targets=targets,
    )


def newest_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that is whole: the Trainer writes ``trainer_state.json`` last."""
    complete = [path for path in directory.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if complete else None


def _check_moved(adapted: Any) -> None:
    """LoRA's B starts at zero; one that is still zero everywhere was never trained (peft #1402)."""
    still = [n for n, p in adapted.named_parameters() if ".lora_B." in n and not torch.any(p.detach() != 0)]
    if still:
        raise TrainingError(f"{len(still)} LoRA layers were not trained, first {still[0]}")
