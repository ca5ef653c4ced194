"""The fused LoRA layers compute what peft's do, forward and backward, with dropout too."""

import pytest
import torch

from conftest import make_gpt2, on_cpu
from cotdistill.adapter import attach
from cotdistill.learning.fused_lora import fuse, restore
from cotdistill.settings.lora import Lora


def block_of(tiny, **lora):
    """peft's model and one feed-forward block of it, whose adapter already does something."""
    module, _ = attach(on_cpu(tiny), Lora(**lora))
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return module, module.get_base_model().model.layers[1].mlp


def outcome(block, x, seed=0):
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    y = block(x)
    (y * torch.arange(y.numel()).view_as(y).cos()).sum().backward()
    found = [y.detach(), x.grad, *(p.grad.clone() for p in block.parameters() if p.grad is not None)]
    block.zero_grad()
    return found


@pytest.mark.parametrize("part", ["up_proj", "whole block"])
def test_outputs_and_gradients_are_pefts_and_peft_is_back_afterwards(tiny, part):
    module, block = block_of(tiny, dropout=0.0, use_rslora=True)
    layer = block if part == "whole block" else getattr(block, part)
    x = torch.randn(2, 5, 32)
    expected = outcome(layer, x)
    fused = fuse(module)
    assert layer in fused
    for found, wanted in zip(outcome(layer, x), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    restore(fused)
    assert not any("forward" in vars(one) for one in fused)
    assert torch.equal(outcome(layer, x)[0], expected[0])


def test_a_gate_learns_where_only_gate_and_down_are_adapted(tiny):
    module, block = block_of(tiny, dropout=0.0, targets=("gate_proj", "down_proj"))
    x = torch.randn(1, 5, 32)  # as at the first adapted layer, whose input has no gradient

    def gradient():
        block.zero_grad()
        block(x).cos().sum().backward()
        return next(p.grad for name, p in block.gate_proj.named_parameters() if "lora_A" in name and p.grad is not None)

    expected = gradient()
    assert block in fuse(module)
    assert expected.abs().max() > 0
    assert torch.allclose(gradient(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_dropout_drops_in_training_only_and_its_gradient_is_that_of_what_was_kept(tiny):
    module, block = block_of(tiny, dropout=0.5)
    assert block in fuse(module)
    x = torch.randn(1, 50, 32)
    module.eval()
    assert torch.equal(outcome(block, x, 1)[0], outcome(block, x, 2)[0])
    module.train()
    one, same, other = outcome(block, x, 1), outcome(block, x, 1), outcome(block, x, 2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])

    def loss(at):
        torch.manual_seed(3)
        return block(at).sum()

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    direction = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(x + direction) - loss(x - direction)) / 2
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=2e-2)


def test_what_dropout_keeps_is_scaled_up_so_that_the_mean_is_that_of_answering(tiny):
    module, block = block_of(tiny, dropout=0.5)
    layer = block.up_proj
    assert layer in fuse(module)
    x = torch.randn(1, 1, 32)
    with torch.no_grad():
        module.eval()
        plain, base = layer(x), layer.base_layer(x)
        module.train()
        torch.manual_seed(0)
        mean = layer(x.expand(1, 20_000, 32)).mean(dim=1, keepdim=True)
    assert (mean - plain).norm() < 0.05 * (plain - base).norm()


@pytest.mark.parametrize("lora", [{"use_dora": True}, {}])
def test_other_layers_stay_as_peft_has_them(tiny, tmp_path, lora):
    module, _ = attach(on_cpu(tiny if lora else make_gpt2(tmp_path)), Lora(**lora))
    assert fuse(module) == []
