"""AnswerTrainer: transformers.Trainer over Examples, with the loss of an objective.

The loss is in nats per answer token over all answer tokens of an optimizer step, however they are spread over its
micro-batches and processes.
"""

from typing import Any

import torch
from transformers import Trainer

from cotdistill.learning.order import Order
from cotdistill.learning.terms import Terms


class AnswerTrainer(Trainer):
    """Trainer over Examples, with the ``Terms`` of an objective. A batch is ``{"rows": [Example, ...]}``: how the rows
    lie in memory is the loss's own affair."""

    loss_is_scaled_for_ga = True  # whatever the model's class says of its own loss, as Gemma's do

    def __init__(self, *args: Any, order: Order, terms: Terms, **kwargs: Any) -> None:
        super().__init__(*args, data_collator=lambda rows: {"rows": rows}, **kwargs)
        self._order = order
        self._terms = terms
        self._spent = self._counts = torch.zeros(len(terms.names))

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self._order

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Tokens of each term (terms) in the whole optimizer step, in all processes. The terms may put other rows in
        the place of those that were drawn."""
        drawn = [row for batch in batch_samples for row in batch["rows"]]
        rows = iter(self._terms.rows(drawn, self.state.global_step))
        for batch in batch_samples:
            batch["rows"] = [next(rows) for _ in batch["rows"]]
        counts = self._terms.counts([row for batch in batch_samples for row in batch["rows"]])
        total: torch.Tensor = self.accelerator.gather(torch.tensor([counts], device=device)).sum(dim=0)
        self._spent, self._counts = torch.zeros(len(counts), device=device), total
        return total

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward, one group of rows after the other, so that only one is in memory."""
        groups = self._terms.groups(inputs["rows"]) if self.accelerator.num_processes == 1 else [inputs["rows"]]
        step = super().training_step
        return torch.stack([step(model, {"rows": rows}, num_items_in_batch) for rows in groups]).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        sums = self._terms.sums(model, inputs["rows"]).to(self.args.device)
        self._spent += sums.detach()
        # The token counts are those of all processes, whose gradients are averaged.
        return sums @ self._terms.weights(num_items_in_batch) * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Beside the loss of a step, that of each of its terms in nats a token."""
        if "loss" in logs and len(self._terms.names) > 1:
            spent = self.accelerator.gather(self._spent[None]).sum(dim=0).tolist()
            for name, nats, tokens in zip(self._terms.names, spent, self._counts.tolist(), strict=True):
                if tokens:
                    logs[f"loss_{name}"] = nats / tokens
        super().log(logs, start_time)


def terms_in(history: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """(optimizer step, nats a token) of each term that was logged beside the loss."""
    found: dict[str, list[tuple[int, float]]] = {}
    for logs in history:
        for key, value in logs.items():
            if key.startswith("loss_"):
                found.setdefault(key.removeprefix("loss_"), []).append((int(logs["step"]), float(value)))
    return found
