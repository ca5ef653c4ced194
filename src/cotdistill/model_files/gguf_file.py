"""GGUF file: a model in memory becomes one file that llama.cpp and Ollama run.

    general.architecture "qwen2", qwen2.block_count 24, tokenizer.chat_template "...", tokenizer.ggml.eos_token_id
    151645 (the end of the turn), cotdistill.card '{"system_prompt": ...}'; tensors token_embd.weight ...

Llama, Qwen2, Qwen3 and SmolLM3, whose tensors have the names of gguf's own table. Not covered, and refused: other
architectures, other tokenizers than byte-level BPE, rotary embeddings scaled otherwise than Llama 3's, sliding windows.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from cotdistill.card import CARD_KEY, AdapterCard
from cotdistill.engines import Request, Sampling
from cotdistill.errors import SetupError
from cotdistill.model import Model, head_size
from cotdistill.model_files.quantisation import Quant, quantised, require_quantizer, tensor_type
from cotdistill.model_files.vocabulary import read_vocabulary
from cotdistill.prompt import SYSTEM_PROMPT, messages_for
from cotdistill.question import Question
from cotdistill.storage.disk import explained, require_space
from cotdistill.template import adds_bos

if TYPE_CHECKING:
    from gguf import GGUFWriter, TensorNameMap

ARCHITECTURES = ("llama", "qwen2", "qwen3", "smollm3")
"""transformers' ``model_type``, which is gguf's name of the architecture too."""

PAIRED = ("llama", "smollm3")
"""Architectures whose queries and keys llama.cpp turns in neighbouring pairs, transformers in halves of a head."""

FILE_TYPES: dict[Quant, str] = {"q8_0": "MOSTLY_Q8_0", "q4_k_m": "MOSTLY_Q4_K_M", "f16": "MOSTLY_F16"}


CHECK = "It's 12.5% of 3,400 kg?\n\n  1999: a naïve café pays x²+1 = 5\tfor   it. How much?"
"""A question that words are cut from in many ways: digits, contractions, runs of blanks, letters beyond ASCII."""

CHECK_TOKENS = 24


def write_gguf(model: Model, path: Path, *, quant: Quant, card: AdapterCard | None) -> bool:
    """Write ``model`` (its module on the CPU, adapter merged) to ``path``: aside first, renamed once llama.cpp has
    answered from it. True if that answer to a check question is the beginning of ``model``'s own.

    Raises ``SetupError`` for what the module docstring does not cover, before anything is written, and where
    llama.cpp cannot load the file or reads the check question as other tokens.
    """
    from gguf import GGUFWriter

    check_writable(model, quant)
    config = model.module.config
    names = names_of(config.model_type, config.num_hidden_layers)
    tensors = {}
    for key, tensor in _tensors(model.module):
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise SetupError(f"the tensor {key} has no place in a GGUF of a {config.model_type} model; use --merged")
        shape = tuple(tensor.shape)
        kind = tensor_type(name, shape, quant, blocks=config.num_hidden_layers, tied=config.tie_word_embeddings)
        tensors[name] = (tensor, kind)
    unfinished = path.with_name(f".{path.name}.unfinished")
    writer = GGUFWriter(None, config.model_type)
    try:
        with explained("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if card:  # first, where read_card looks for it
                writer.add_string(CARD_KEY, msgspec.json.encode(card).decode())
            _add_model(writer, model, quant)
            _add_tokenizer(writer, model)
            sizes = {name: _size(tuple(tensor.shape), kind) for name, (tensor, kind) in tensors.items()}
            require_space(path.parent, sum(sizes.values()))
            for name, (tensor, kind) in tensors.items():
                writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), sizes[name], raw_dtype=kind)
            writer.write_header_to_file(unfinished)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor, kind in tensors.values():
                writer.write_tensor_data(quantised(tensor.float().numpy(), kind))
            writer.close()
            same = _answers_alike(unfinished, model, card.system_prompt if card else SYSTEM_PROMPT)
            os.replace(unfinished, path)
    finally:
        writer.close()
        unfinished.unlink(missing_ok=True)
    return same


def check_writable(model: Model, quant: Quant) -> None:
    """Raise ``SetupError`` for a model that ``write_gguf`` cannot write, saying what about it."""
    config = model.module.config
    kind = config.model_type
    if kind not in ARCHITECTURES:
        known = f"{', '.join(ARCHITECTURES[:-1])} and {ARCHITECTURES[-1]}"
        raise SetupError(f"GGUF is written for {known} models, and this is a {kind}; use --merged")
    size, scaling = head_size(config), config.rope_parameters["rope_type"]
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    # What llama.cpp has in its code, where transformers asks the config.
    turned = [int((block + 1) % 4 != 0) for block in range(config.num_hidden_layers)]
    lost = [
        (config.hidden_act not in ("silu", "swish"), f"silu for {kind} models, not {config.hidden_act}"),
        (kind == "qwen2" and size * config.num_attention_heads != config.hidden_size,
         f"no heads of {size} in a qwen2 model of this width"),
        (biased and kind != "llama", f"no biases in {kind} models"),
        (getattr(config, "use_sliding_window", False), f"no sliding window for {kind} models"),
        (getattr(config, "no_rope_layers", turned) != turned, f"every fourth layer of a {kind} without positions"),
        (scaling == "llama3" and kind != "llama", f"no rotary embeddings scaled as Llama 3's in {kind} models"),
    ]  # fmt: skip
    for is_lost, what in lost:
        if is_lost:
            raise SetupError(f"llama.cpp has {what}; use --merged")
    if scaling not in ("default", "llama3"):
        raise SetupError(f"rotary embeddings scaled by {scaling!r} are not written to GGUF; use --merged")
    require_quantizer(quant)
    read_vocabulary(model.tokenizer, _rows(model))


def _answers_alike(gguf: Path, model: Model, system: str) -> bool:
    from cotdistill.engines.llama_cpp import LlamaCppEngine
    from cotdistill.engines.transformers_engine import TransformersEngine

    request = Request("check", messages_for(Question("check", CHECK), system))
    expected = model.template.prompt_ids(request.messages)
    sampling = Sampling(max_new_tokens=CHECK_TOKENS, thinking=model.template.thinking)
    engine = LlamaCppEngine(gguf, slots=1, context=len(expected) + 4 * CHECK_TOKENS)
    try:
        read = engine.prompt_ids(request.messages, thinking=sampling.thinking)
        [found] = engine.complete([request], sampling)
    except RuntimeError as error:
        raise SetupError(f"llama.cpp does not run the exported model ({error}); use --merged") from error
    finally:
        engine.close()
    if found.error or read != expected or found.prompt_tokens != len(expected):
        reason = found.error or "it reads its prompts as other tokens"
        raise SetupError(f"llama.cpp does not run the exported model as it was trained ({reason}); use --merged")
    [own] = TransformersEngine(model).complete([request], sampling)
    # Where the limit cuts a character in two, one of them shows what is left of it.
    return found.text.rstrip("\ufffd") == own.text.rstrip("\ufffd")


def names_of(architecture: str, blocks: int) -> "TensorNameMap":
    """gguf's table of transformers' and llama.cpp's names of tensors."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    return get_tensor_name_map(MODEL_ARCH[architecture.upper()], blocks)


def in_pairs(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of queries or keys of a ``PAIRED`` model in llama.cpp's order."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _tensors(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights in transformers' naming, queries and keys in llama.cpp's order."""
    config = module.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in module.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        layer = key.split(".")[-2]
        if config.model_type in PAIRED and layer in heads:
            yield key, in_pairs(tensor, heads[layer])
        else:
            yield key, tensor
    if config.rope_parameters["rope_type"] == "llama3":
        rotary = module.get_decoder().rotary_emb
        steps = torch.arange(0, 2 * len(rotary.inv_freq), 2, dtype=torch.float32) / (2 * len(rotary.inv_freq))
        yield "rope_freqs.weight", config.rope_parameters["rope_theta"] ** -steps / rotary.inv_freq.float()


def _add_model(writer: "GGUFWriter", model: Model, quant: Quant) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    config = model.module.config
    size = head_size(config)
    writer.add_type("model")
    writer.add_name(model.directory.name)
    writer.add_file_type(LlamaFileType[FILE_TYPES[quant]])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(_rows(model))


def _add_tokenizer(writer: "GGUFWriter", model: Model) -> None:
    tokenizer, template = model.tokenizer, model.template
    vocabulary = read_vocabulary(tokenizer, _rows(model))
    writer.add_tokenizer_model("gpt2")  # llama.cpp's word for byte-level BPE
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else model.module.config.bos_token_id
    if bos is not None:
        writer.add_bos_token_id(bos)
    writer.add_eos_token_id(template.end_of_turn)
    writer.add_pad_token_id(template.pad_id)
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_chat_template(template.exported)


def _rows(model: Model) -> int:
    return int(model.module.get_input_embeddings().weight.shape[0])


def _size(shape: tuple[int, ...], kind: Any) -> int:
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape) // block * size)
