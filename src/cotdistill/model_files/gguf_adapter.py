"""GGUF adapter: peft's LoRA weights as a file that llama.cpp applies to a GGUF model, without merging.

    general.type "adapter", adapter.type "lora", adapter.lora.alpha 16.0; tensors blk.0.attn_q.weight.lora_a ...

Not covered, and refused: DoRA, ranks that differ between layers, adapters with biases or whole layers of their own.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from cotdistill.card import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_card
from cotdistill.errors import SetupError
from cotdistill.model_files.gguf_file import ARCHITECTURES, PAIRED, in_pairs, names_of
from cotdistill.model_files.gguf_header import only_gguf, open_gguf, value_of
from cotdistill.storage.disk import explained
from cotdistill.wording import DATE, TODAY, bare, template_hash

PREFIX = "base_model.model."


def write_gguf_adapter(adapter: Path, base: Path, to: Path) -> None:
    """Write the adapter in the directory ``adapter`` for the model in the GGUF file ``base`` to the file ``to``.

    Raises ``SetupError`` for an adapter that is not for such a model, and for what the module docstring names.
    """
    from gguf import GGUFWriter
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        weights = load_file(adapter / ADAPTER_WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise SetupError(f"the adapter in {adapter} cannot be read: {error}") from error
    alpha = _alpha(config, adapter)
    reader = open_gguf(only_gguf(base))
    value = partial(value_of, reader)
    architecture = str(value("general.architecture"))
    if architecture not in ARCHITECTURES:
        known = f"{', '.join(ARCHITECTURES[:-1])} and {ARCHITECTURES[-1]}"
        raise SetupError(f"adapters are applied to {known} models, and {base} is a {architecture}; convert it first")
    card, template = read_card(adapter), value("tokenizer.chat_template")
    if card and template is None:
        raise SetupError(f"{base} has no chat template: llama.cpp would take another than {adapter} was trained with")
    own = bare(str(template))
    if card and card.template_hash != template_hash(own):
        raise SetupError(f"the adapter in {adapter} was trained with another chat template than {base} has")
    if card and "strftime_now" in own and TODAY not in str(template):
        raise SetupError(f"the chat template of {base} writes today's date, and {adapter} was trained with {DATE}")
    count = value(f"{architecture}.attention.head_count")
    heads = {"q_proj": int(count), "k_proj": int(value(f"{architecture}.attention.head_count_kv") or count)}
    names = names_of(architecture, int(value(f"{architecture}.block_count")))
    shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
    with explained("write", to):
        writer = GGUFWriter(to, architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for key, tensor in weights.items():
            layer, _, part = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
            name = names.get_name(layer)
            shape = shapes.get(f"{name}.weight")
            if name is None or shape is None or part not in ("lora_A", "lora_B"):
                raise SetupError(f"the adapter in {adapter} does not fit {base}: it has {key}")
            if tensor.shape[0 if part == "lora_B" else 1] != shape[1 if part == "lora_B" else 0]:
                raise SetupError(f"the adapter in {adapter} does not fit {base}: {key} has another shape")
            if architecture in PAIRED and part == "lora_B" and (module := layer.rpartition(".")[2]) in heads:
                tensor = in_pairs(tensor, heads[module])
            writer.add_tensor(f"{name}.weight.{part.lower()}", tensor.float().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _alpha(config: dict[str, Any], adapter: Path) -> float:
    """llama.cpp scales by alpha / r; of what it cannot scale so, ``SetupError``."""
    if config.get("peft_type", "LORA") != "LORA":
        raise SetupError(f"{adapter} is a {config['peft_type']} adapter, which llama.cpp does not run")
    special = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "alora_invocation_tokens")
    odd = [name for name in special if config.get(name)]
    odd += ["bias"] if config.get("bias", "none") != "none" else []
    if odd:
        raise SetupError(
            f"llama.cpp runs no adapter with {odd[0]}, such as {adapter}: export it merged (cotdistill export), "
            "or ask it with --engine transformers"
        )
    alpha, rank = float(config["lora_alpha"]), int(config["r"])
    return alpha * rank**0.5 if config.get("use_rslora") else alpha
