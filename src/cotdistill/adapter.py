"""Adapter: LoRA weights beside the prompt the student was trained with.

The directory is peft's own (``adapter_config.json``, ``adapter_model.safetensors``) plus ``cotdistill.json``,
so that evaluation and chat ask the student exactly as training did.
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import torch

from cotdistill.card import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, AdapterCard, check_adapter, read_card
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash
from cotdistill.learning.ranks import here
from cotdistill.model import OTHER_MODALITIES, Model, linear_names
from cotdistill.settings.lora import Lora
from cotdistill.shown import cause_of
from cotdistill.storage.disk import write_atomic

DEFAULT_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
EXPERT_LAYERS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def choose_targets(module: torch.nn.Module, wanted: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The layers to adapt and a sentence that says which.

    A name the model lacks raises ``SetupError`` listing the ones it has. Without a wish: the default names
    where the model has them all, else every linear layer.
    """
    have = linear_names(module)
    if not wanted and any(name.endswith("gate_up_proj") and p.dim() == 3 for name, p in module.named_parameters()):
        have = [name for name in have if name not in EXPERT_LAYERS]  # peft takes these names for the experts' matrices
    if wanted:
        missing = sorted(set(wanted) - set(have))
        if missing:
            raise SetupError(
                f"target_modules {', '.join(missing)}: the model has no such linear layer; "
                f"it has {', '.join(have)}"
            )
        return wanted, f"LoRA on {', '.join(wanted)}"
    if set(DEFAULT_TARGETS) <= set(have):
        return DEFAULT_TARGETS, f"LoRA on {', '.join(DEFAULT_TARGETS)}"
    if not have:
        raise SetupError("the model has no linear layer that LoRA could adapt")
    return tuple(have), f"the model lacks some of q_proj ... down_proj: LoRA on its linear layers: {', '.join(have)}"


def attach(model: Model, lora: Lora, *, gradient_checkpointing: bool = False) -> tuple[Any, str]:
    """Wrap the model's module with a fresh LoRA adapter; returns peft's model and a sentence on targets."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    targets, sentence = choose_targets(model.module, lora.targets)
    module = model.module
    if getattr(module, "is_loaded_in_4bit", False):
        module = prepare_model_for_kbit_training(module, use_gradient_checkpointing=gradient_checkpointing)
    others = any(re.fullmatch(OTHER_MODALITIES, name) for name, _ in module.named_modules())
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        exclude_modules=OTHER_MODALITIES if others else None,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(module, config)
    except ValueError as error:
        why = cause_of(error)
        raise SetupError(f"no LoRA on {', '.join(targets)}: {why}; name other layers with --target_modules") from error
    if gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted, sentence


def save_adapter(adapted: Any, directory: Path, card: AdapterCard) -> None:
    """Write adapter and card, then read the weights back and compare them bit by bit. Whether the base was 4-bit is
    noted on the card here, where the base is at hand. Of several processes all call it and the first one writes.

    Raises ``SetupError`` if what is on disk is not what is in memory.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file
    from torch.distributed.tensor import DTensor

    # Under FSDP each process holds a part of every weight, and all are needed to put one together.
    parts = {name: value for name, value in adapted.state_dict().items() if "lora_" in name}
    whole = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in parts.items()}
    if not here().first:
        return
    adapted.save_pretrained(directory, safe_serialization=True, state_dict=whole)
    mode = (directory / ADAPTER_CONFIG).stat().st_mode  # safetensors writes for the owner's eyes only
    (directory / ADAPTER_WEIGHTS).chmod(mode)
    state = get_peft_model_state_dict(adapted, state_dict=whole)
    saved = load_file(directory / ADAPTER_WEIGHTS)
    differing = [k for k, v in state.items() if k not in saved or not torch.equal(v.cpu(), saved[k])]
    if differing or len(saved) != len(state):
        raise SetupError(f"the adapter written to {directory} is not the one trained: {differing[:3]}")
    # A whole path of the machine that trained means nothing elsewhere: the base is known by its hash.
    config_file = directory / ADAPTER_CONFIG
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if Path(config["base_model_name_or_path"]).is_absolute():
        config["base_model_name_or_path"] = card.base_name
    write_atomic(config_file, json.dumps(config, indent=2).encode())
    adapted.generation_config.save_pretrained(directory)  # what ends an answer, for whoever generates without us
    (directory / "README.md").unlink(missing_ok=True)  # peft's form with blanks to fill in, and the same path
    card = msgspec.structs.replace(card, four_bit=bool(getattr(adapted, "is_loaded_in_4bit", False)))
    write_atomic(directory / CARD, msgspec.json.format(msgspec.json.encode(card)))


def load_adapter(model: Model, directory: Path) -> Any:
    """Put a saved adapter on its base model; returns peft's model in eval mode.

    Only safetensors are read. Raises ``SetupError`` for another base model or chat template, and for missing or
    unexpected keys, which peft would replace by a random adapter with a warning.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_adapter(directory)
    if not (directory / ADAPTER_WEIGHTS).is_file():
        pickled = (directory / "adapter_model.bin").is_file()
        way = "pickled adapters (.bin) are not read" if pickled else "put it back, or train again with the same command"
        raise SetupError(f"{directory} has no {ADAPTER_WEIGHTS}; {way}")
    card = read_card(directory)
    if card and card.base_hash != (found := model_hash(model.directory)):
        raise SetupError(
            f"the adapter in {directory} was trained on {card.base_name} ({card.base_hash}), "
            f"not on {model.directory.name} ({found})"
        )
    if card and card.template_hash != model.template.hash:
        raise SetupError(
            f"the adapter in {directory} was trained with another chat template than {model.directory} has now; "
            "put back the one it had"
        )
    try:
        config = LoraConfig.from_pretrained(str(directory))
        saved = load_file(directory / ADAPTER_WEIGHTS)
    except (ValueError, TypeError, SafetensorError) as error:
        raise SetupError(f"the adapter in {directory} cannot be read: {error}") from error
    config.inference_mode = True
    config.base_model_name_or_path = None  # where it lay when it was trained
    try:
        adapted = get_peft_model(model.module, config)
    except ValueError as error:
        raise SetupError(f"the adapter in {directory} does not fit {model.directory}: {error}") from error
    if any(parameter.is_meta for parameter in adapted.parameters()):
        raise SetupError(f"{model.directory} is too large for the GPU: take 4-bit, more GPUs or a smaller model")
    expected = get_peft_model_state_dict(adapted)
    odd = sorted(set(saved) ^ set(expected))
    odd += [name for name in set(saved) & set(expected) if saved[name].shape != expected[name].shape]
    if odd:
        raise SetupError(
            f"the adapter in {directory} does not fit {model.directory.name}: "
            f"{len(odd)} missing, unexpected or misshapen weights, first {odd[0]}"
        )
    set_peft_model_state_dict(adapted, saved)
    return adapted.eval()

