"""Loss: how likely the student finds the answers it is to learn, computed as sparingly as the model allows.

Only answer positions are projected to the vocabulary, in chunks (``chunked.py``), and on a CPU the rows lie packed
(``layout.py``) and LoRA's layers are fused (``fused_lora.py``). Models differ in what they do to attention and logits,
so before training the sparing ways are held against the model's own forward pass, and the first that agrees is taken.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch.nn.functional import cross_entropy

from cotdistill.engines.shared_prefix import SharedPrefix
from cotdistill.errors import TrainingError
from cotdistill.example import IGNORE, Example, after
from cotdistill.learning.chunked import Term, each, nll
from cotdistill.learning.fused_lora import fuse, restore
from cotdistill.learning.layout import Batch, ordered, pack, pad, split
from cotdistill.learning.packed_attention import LINE, NAME, register

log = logging.getLogger(__name__)

SHORT = (torch.bfloat16, torch.float16)

TOKENS = 512
"""Tokens of a packed line: more take more memory and are hardly faster."""
TOLERANCE = 1e-3
"""How far a token's loss may lie from the model's own on average, as a share of the mean loss."""
LEAST_TOLERANCE = 1e-4
"""Nats: the least that ``TOLERANCE`` comes to, for a mean loss so small that its share would be less than rounding."""
PACKED_TOLERANCE = 1e-3
"""Nats that any one token may be off where rows lie in a line: the mean would hide a model that sees the row before,
which is right in the first row."""
SHORT_TOLERANCE = 0.1
"""Nats, in the short formats: logits of 16 to 32 are a sixteenth to an eighth apart there."""
SHORT_BIAS = 0.05
"""Nats, in the short formats: how far the mean itself may move. Rounding cancels out, another computation does not."""


class AnswerLoss:
    """The loss of rows under ``module``, peft's model or one without an adapter, in the way that was chosen for it:
    ``with loss: ...``. All rows go on from ``prefix``, whose ids they then lack."""

    def __init__(
        self, module: Any, pad_id: int, *, packed: bool, chunked: bool, prefix: SharedPrefix | None = None
    ) -> None:
        self._base = _base(module)
        self._head = self._base.get_output_embeddings()
        self._pad_id = pad_id
        self._packed = packed
        self._chunked = chunked
        self._prefix = prefix
        self._own_attention = self._base.config._attn_implementation
        self._fused: list[Any] = []

    def __enter__(self) -> Self:
        if self._packed:
            register()
            self._base.set_attn_implementation(NAME)
            self._fused = fuse(self._base)
        return self

    def __exit__(self, *_: object) -> None:
        self._base.set_attn_implementation(self._own_attention)
        restore(self._fused)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The model as it was, in the midst of ``with loss``: for writing text."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        device: torch.device = self._head.weight.device
        return device

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
        return self.tokens(model, examples).sum()

    def tokens(self, model: Any, examples: Sequence[Example]) -> torch.Tensor:
        """-log p in nats of each answer token, (n), for rows that are ``ordered`` in their order."""
        if self._chunked:
            return self._answers(model, examples, self._nll)[0][:, 0]
        logits, targets = self._answers(model, examples, self._logits())
        return cross_entropy(logits.float(), targets, reduction="none")

    def each(self, model: Any, examples: Sequence[Example], term: Term, terms: int) -> torch.Tensor:
        """What ``term`` makes of the logits at each answer token of rows that are ``ordered``: (n, terms)."""
        if self._chunked:
            head = self._head
            return self._answers(
                model, examples, lambda h, t: _alone(each(h, head.weight, head.bias, t, term, terms))
            )[0]
        logits, targets = self._answers(model, examples, self._logits())
        return term(logits.float(), targets, slice(0, len(targets)))

    def _answers(
        self, model: Any, examples: Sequence[Example], project: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model with ``project`` in place of its output head, on the n answer positions only. Returns its
        values (n, width) and the targets (n)."""
        device = self.device
        batch = pack(examples) if self._packed else pad(examples, self._pad_id)
        if batch.rows:
            LINE.lay(batch.rows, len(self._prefix.ids) if self._prefix else 0)
        picked = batch.targets != IGNORE
        targets = batch.targets[picked]

        def at_answers(hidden: torch.Tensor) -> torch.Tensor:
            # Spread over several GPUs, the layer before the head may lie elsewhere. Under FSDP with weights in main
            # memory the head computes elsewhere than it lies.
            own = self._head.weight.device
            there = own if own.type == hidden.device.type else hidden.device
            return project(hidden[picked.to(hidden.device)].to(there), targets.to(there))

        with _instead(self._head, at_answers):
            values = _forward(model, batch, device, self._prefix)[0]
        return values.float(), targets.to(values.device)  # FSDP rounds whatever leaves a model

    def _nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _alone(nll(hidden, self._head.weight, self._head.bias, targets)[:, None])

    def _logits(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        project = self._head.forward
        return lambda hidden, _: project(hidden[None])


def choose(
    module: Any, examples: Sequence[Example], pad_id: int, *, pack: bool, prefix: SharedPrefix | None = None
) -> AnswerLoss:
    """The most sparing loss that agrees with the model's own logits on the two shortest rows. They are given whole;
    ``prefix`` is cut off here. Raises ``TrainingError`` where none agrees, or a part of the model lies in main
    memory because the GPU has no room."""
    rows = ordered(sorted(examples, key=lambda example: len(example.input_ids))[:2])
    given = [after(row, len(prefix.ids)) for row in rows] if prefix else rows
    head = _base(module).get_output_embeddings()
    if any(parameter.is_meta for parameter in module.parameters()):
        raise TrainingError("the model is too large for the GPU: take 4-bit, more GPUs or a smaller model")
    frozen = not any(parameter.requires_grad for parameter in head.parameters())
    with without_dropout(module), torch.no_grad():
        # One row at a time, because all logits of a row are much: 600 MB for 1000 tokens of Qwen's vocabulary.
        expected = torch.cat([_own_loss(module, row, head.weight.device) for row in rows])
        allowed, bias = _tolerance(expected, module)
        for packed, chunked in ((True, True), (False, True), (False, False)):
            if (packed and not pack) or (chunked and not frozen):
                continue
            loss = AnswerLoss(module, pad_id, packed=packed, chunked=chunked, prefix=prefix)
            try:
                with loss:
                    found = loss.tokens(module, given)
                off, moved = (float(mean) for mean in _means(found - expected))
                worst = float((found - expected).abs().max()) if len(found) else 0.0
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                off, moved, worst, why = float("nan"), 0.0, 0.0, f"{type(error).__name__}: {error}"
            else:
                own = f"the model's own, which are {float(expected.mean()):.4f}"
                why = f"{off:.4f} nats a token, {worst:.4f} at most, from {own}"
            apart = not packed or allowed >= SHORT_TOLERANCE or worst <= PACKED_TOLERANCE
            if off <= allowed and apart and (abs(moved) <= bias or not chunked):  # the last is the model's own way
                return loss
            how = "packed rows" if packed else "the chunked loss" if chunked else "the loss at answer positions"
            log.info("%s: not for this model (%s)", how, why)
    raise TrainingError(f"this model's loss cannot be computed: {why}; please report the model's type")


def _alone(values: torch.Tensor) -> torch.Tensor:
    """(n, width) as (1, n, width) and no view: FSDP warns of each view that leaves a model."""
    return torch.stack([values])


def _base(module: Any) -> Any:
    """The model that an adapter was put on."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def _tolerance(expected: torch.Tensor, module: Any) -> tuple[float, float]:
    """Nats that a token may be off on average, and all of them together."""
    # The head of a 4-bit model is in fp32 while it trains, and all before it is computed in 16 bits.
    short = any(one.dtype in SHORT or hasattr(one, "quant_state") for one in module.parameters())
    if short:
        return SHORT_TOLERANCE, SHORT_BIAS
    most = max(TOLERANCE * float(_means(expected)[1]), LEAST_TOLERANCE)
    return most, most


def _means(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of sizes and of values; 0 for none."""
    count = max(1, len(values))
    return values.abs().sum() / count, values.sum() / count


def _own_loss(module: Any, example: Example, device: torch.device) -> torch.Tensor:
    """-log p of each answer token, from all logits of the row."""
    batch = pad([example], 0)
    targets = batch.targets[0].to(device)
    logits = _forward(module, batch, device)[0].float()
    return cross_entropy(logits[targets != IGNORE], targets[targets != IGNORE], reduction="none")


def _forward(
    model: Any, batch: Batch, device: torch.device, prefix: SharedPrefix | None = None
) -> torch.Tensor:
    mask = None if batch.mask is None else batch.mask.to(device)
    before, kept = (len(prefix.ids), {"cache": prefix.cache(len(batch.ids))}) if prefix else (0, {})
    if mask is not None:
        mask = torch.cat([mask.new_ones(len(mask), before), mask], dim=1)
    output = model(
        input_ids=batch.ids.to(device), position_ids=batch.positions.to(device) + before, attention_mask=mask,
        use_cache=bool(kept), **kept,
    )  # fmt: skip
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
    own = vars(head).get("forward")
    head.forward = project
    try:
        yield
    finally:
        if own is None:
            del head.forward  # a layer that held its own method would hold itself in memory
        else:
            head.forward = own
