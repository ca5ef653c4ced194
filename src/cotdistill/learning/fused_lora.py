"""LoRA's layers with fewer steps and less to keep, for the CPU.

A linear layer is y = xW' + b + s(xA')B', the small product added in place; peft computes the two paths apart, which
takes more and smaller operations and passes over every activation more often. The last layer of a gated feed-forward
block gets its input, silu(gate) * up, inside the same step, so that gate and up are all that is kept for it.

Plain LoRA on plain linear layers only; DoRA, 4-bit and other layers stay as peft has them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear


def fuse(module: Any) -> list[Any]:
    """Give every layer of peft's model that allows it the fused forward; returns those layers, for ``restore``."""
    layers = list(_plain_layers(module))
    for layer in layers:
        layer.forward = _fused(layer)
    blocks = [block for block in module.modules() if _gated(block) and block.down_proj in layers]
    for block in blocks:
        block.forward = _fused_block(block)
    return [*layers, *blocks]


def restore(layers: list[Any]) -> None:
    """peft's own forward again."""
    for layer in layers:
        del layer.forward
    _buffers.clear()


def _plain_layers(module: Any) -> Iterator[Any]:
    from peft.tuners.lora import Linear

    for layer in module.modules():
        if type(layer) is Linear and type(layer.base_layer) is torch.nn.Linear and len(layer.active_adapters) == 1:
            name = layer.active_adapters[0]
            special = layer.lora_variant or layer.merged or layer.disable_adapters or layer.lora_bias.get(name)
            if not special and layer.base_layer.weight.dtype == layer.lora_A[name].weight.dtype:
                yield layer


def _gated(block: Any) -> bool:
    """The feed-forward block of Llama, Qwen2 and their kin: down(silu(gate(x)) * up(x))."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return [*dict(block.named_children())] == [*parts] and "silu" in type(block.act_fn).__name__.lower()


def _fused(layer: Any) -> Any:
    def forward(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        y: torch.Tensor = _LoraLinear.apply(None, x, *_parts(layer))  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    return forward


def _fused_block(block: Any) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        gate, up = block.gate_proj(x), block.up_proj(x)
        y: torch.Tensor = _LoraLinear.apply(gate, up, *_parts(block.down_proj))  # type: ignore[no-untyped-call]
        return y.view(*up.shape[:-1], -1)

    return forward


def _parts(layer: Any) -> tuple[Any, ...]:
    """W, b, A, B, s and the share of entries that dropout keeps (scaled up by its inverse)."""
    name, base = layer.active_adapters[0], layer.base_layer
    dropout = layer.lora_dropout[name]
    keep = 1.0 - getattr(dropout, "p", 0.0) if dropout.training else 1.0
    return base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name], keep


class _LoraLinear(torch.autograd.Function):
    """Of x, or of silu(gate) * x where there is a gate."""

    @staticmethod
    def forward(
        ctx: Any, gate: torch.Tensor | None, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
        a: torch.Tensor, b: torch.Tensor, scale: float, keep: float,
    ) -> torch.Tensor:  # fmt: skip
        flat = _input(gate, x)
        kept = torch.empty(flat.shape, dtype=torch.bool, device=x.device).bernoulli_(keep) if keep < 1 else None
        low = _dropped(flat, kept, keep) @ a.T
        y = linear(flat, weight, bias).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(gate, x, weight, a, b, low, kept)
        ctx.scale, ctx.keep = scale, keep
        return y  # flat: a view that was made in here could not be changed in place, as Llama 4 does

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, x, weight, a, b, low, kept = ctx.saved_tensors
        (grad,) = grads
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_a = grad_low.T @ _dropped(_input(gate, x), kept, ctx.keep)
        grad_b = (grad.T @ low).mul_(ctx.scale)
        if not any(ctx.needs_input_grad[:2]):  # below the first adapted layer
            return None, None, None, None, grad_a, grad_b, None, None
        grad_x = grad @ weight
        if kept is None:
            grad_x.addmm_(grad_low, a)
        else:
            grad_x += _dropped(grad_low @ a, kept, ctx.keep)
        grad_x = grad_x.view_as(x)
        grad_gate = None
        if gate is not None:
            grad_gate = torch.ops.aten.silu_backward(torch.mul(grad_x, x, out=_scratch(x)), gate)
            grad_x.mul_(_silu(gate))
        return grad_gate, grad_x, None, None, grad_a, grad_b, None, None


def _input(gate: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    whole = x if gate is None else _silu(gate).mul_(x)
    return whole.reshape(-1, whole.shape[-1])


def _silu(gate: torch.Tensor) -> torch.Tensor:
    """In scratch."""
    out: torch.Tensor = torch.ops.aten.silu.out(gate, out=_scratch(gate))
    return out


_buffers: dict[tuple[torch.dtype, torch.device], torch.Tensor] = {}


def _scratch(like: torch.Tensor) -> torch.Tensor:
    """Room for one tensor that is done with before the next is asked for: the widest of the model, which would be
    mapped and zeroed anew each time."""
    key = like.dtype, like.device
    buffer = _buffers.get(key)
    if buffer is None or buffer.numel() < like.numel():
        buffer = _buffers[key] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
    return buffer[: like.numel()].view(like.shape)


def _dropped(x: torch.Tensor, kept: torch.Tensor | None, keep: float) -> torch.Tensor:
    return x if kept is None else x * kept / keep
