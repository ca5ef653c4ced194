"""Loss: how likely the student finds the answers it is to learn, computed as sparingly as the model allows.

Only answer positions are projected to the vocabulary, in chunks (``chunked.py``), and on a CPU the rows lie packed
(``layout.py``). Models differ in what they do to attention and logits, so before training the sparing ways are held
against the model's own forward pass, and the first that agrees is taken.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch.nn.functional import cross_entropy

from cotdistill.chunked import nll
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example
from cotdistill.layout import Batch, pack, pad, split
from cotdistill.packed_attention import LINE, NAME, register

log = logging.getLogger(__name__)

TOKENS = 512
"""Tokens of a packed line: more take more memory and are hardly faster."""
TOLERANCE = 1e-3
"""Relative difference between two computations of one loss; in bf16 it is a few 1e-4."""


class AnswerLoss:
    """The loss of rows under ``module``, peft's model, in the way that was chosen for it: ``with loss: ...``."""

    def __init__(self, module: Any, pad_id: int, *, packed: bool, chunked: bool) -> None:
        self._base = module.get_base_model()
        self._head = self._base.get_output_embeddings()
        self._pad_id = pad_id
        self._packed = packed
        self._chunked = chunked
        self._own_attention = self._base.config._attn_implementation

    def __enter__(self) -> Self:
        if self._packed:
            register()
            self._base.set_attn_implementation(NAME)
        return self

    def __exit__(self, *_: object) -> None:
        self._base.set_attn_implementation(self._own_attention)

    @property
    def packed(self) -> bool:
        """Whether rows lie in a line, without padding."""
        return self._packed

    def groups(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The rows that are computed at a time."""
        return split(examples, TOKENS) if self._packed else [list(examples)]

    def __call__(self, model: Any, examples: Sequence[Example]) -> torch.Tensor:
        """Summed -log p in nats over the answer tokens of the rows. ``model`` is the module, or what a launcher
        wrapped around it: the whole of it runs, because autocast and the exchange of gradients happen there."""
        device = self._head.weight.device
        batch = pack(examples) if self._packed else pad(examples, self._pad_id)
        if batch.rows:
            LINE.lay(batch.rows)
        targets = batch.targets.to(device)
        picked = targets != IGNORE
        if self._chunked:
            with _instead(self._head, lambda hidden: self._nll(hidden[picked], targets[picked])):
                return _forward(model, batch, device)[0, 0, 0]
        project = self._head.forward
        with _instead(self._head, lambda hidden: project(hidden[picked][None])):
            logits = _forward(model, batch, device)[0].float()
        return cross_entropy(logits, targets[picked], reduction="sum")

    def _nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, as (1, 1, 1): it takes the way of the logits out of the model."""
        return nll(hidden, self._head.weight, self._head.bias, targets).reshape(1, 1, 1)


def choose(module: Any, examples: Sequence[Example], pad_id: int, *, pack: bool) -> AnswerLoss:
    """The most sparing loss that agrees with the model's own logits on the two shortest rows."""
    rows = sorted(examples, key=lambda example: len(example.input_ids))[:2]
    head = module.get_base_model().get_output_embeddings()
    frozen = not any(parameter.requires_grad for parameter in head.parameters())
    with without_dropout(module), torch.no_grad():
        expected = _own_loss(module, rows, pad_id, head.weight.device)
        for packed, chunked in ((True, True), (False, True), (False, False)):
            if (packed and not pack) or (chunked and not frozen):
                continue
            loss = AnswerLoss(module, pad_id, packed=packed, chunked=chunked)
            try:
                with loss:
                    found = float(loss(module, rows))
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                found, why = float("nan"), f"{type(error).__name__}: {error}"
            else:
                why = f"{found:.4f} nats instead of {expected:.4f}"
            if abs(found - expected) <= TOLERANCE * abs(expected):
                return loss
            how = "packed rows" if packed else "the chunked loss" if chunked else "the loss at answer positions"
            log.info("%s: not for this model (%s)", how, why)
    raise TrainingError(f"this model's loss cannot be computed: {why}; please report the model's type")


def _own_loss(module: Any, examples: Sequence[Example], pad_id: int, device: torch.device) -> float:
    batch = pad(examples, pad_id)
    logits = _forward(module, batch, device).float()
    targets = batch.targets.to(device)
    return float(cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"))


def _forward(model: Any, batch: Batch, device: torch.device) -> torch.Tensor:
    mask = None if batch.mask is None else batch.mask.to(device)
    output = model(
        input_ids=batch.ids.to(device), position_ids=batch.positions.to(device), attention_mask=mask, use_cache=False
    )
    logits: torch.Tensor = output.logits
    return logits


@contextmanager
def without_dropout(module: Any) -> Iterator[None]:
    """The model as it answers, in the midst of training. 4-bit layers are left alone: on a CPU, bitsandbytes packs
    their weights anew at the first use outside training, for good, and what is packed gives no gradient."""
    layers = [layer for layer in module.modules() if layer.training and not hasattr(layer, "quant_state")]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


@contextmanager
def _instead(head: Any, project: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While this lasts, ``project`` stands in the place of the projection to the vocabulary."""
    own = head.forward
    head.forward = project
    try:
        yield
    finally:
        head.forward = own
