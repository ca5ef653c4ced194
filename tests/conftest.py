"""A tiny random model with a real tokenizer and chat template: everything but knowledge."""

from pathlib import Path

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
THINK = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{{ message['content'].split('</think>')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<s>",
]  # fmt: skip


def make_tokenizer(template: str | None = CHATML, eos: str = "<|im_end|>", pad: str | None = None):
    """A byte-level tokenizer: one token a byte, plus the control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, pad_token=pad, bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


def make_model(directory: Path, *, template: str | None = CHATML, eos: str = "<|im_end|>", seed: int = 0,
               context: int = 512) -> Path:  # fmt: skip
    """Write a two-layer Llama with random weights and tied embeddings as a Hugging Face directory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(template, eos)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny model; tests must not write into it."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The tiny model's tensors are too small to share: threads would only wait for each other on busy cores."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def adding_bos(tokenizer):
    """The tokenizer, made to put its BOS before every text by itself, as Llama's does."""
    from tokenizers import processors

    pair = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{pair[0]} $A", pair=f"{pair[0]} $A $B", special_tokens=[pair]
    )
    assert tokenizer("x").input_ids[0] == tokenizer.bos_token_id
    return tokenizer


def make_gpt2(directory: Path) -> Path:
    """Like ``make_model``, a GPT-2: fused attention, no ``q_proj``, Conv1D for its linear layers."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512, **ids)
    GPT2LMHeadModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_windowed(directory: Path) -> Path:
    """Like ``make_model``, a Mistral whose attention reaches back 24 tokens, with weights large enough to tell."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, sliding_window=24, initializer_range=0.2,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def on_cpu(directory: Path):
    """The model loaded in fp32 on the CPU, wherever the tests run."""
    from cotdistill.hardware import Placement
    from cotdistill.model import load_model

    return load_model(directory, Placement("cpu", "float32", False, None))


def make_examples(model, count: int):
    """``count`` sums as examples, their rows and answers of different lengths."""
    from cotdistill.example import build_examples
    from cotdistill.question import Question

    pairs = []
    for i in range(count):
        question = Question(f"q{i}", f"What is {i} + {i}?{' Think.' * (i % 3)}")
        pairs.append((f"q{i}#0", question, f"{i} + {i}\n" * (i % 4) + str(2 * i)))
    return build_examples(model.template, pairs, system="Add.", max_length=512).kept


def teach(directory: Path, output: Path, *, rows: int = 4, model=None, examples=None, show=lambda step: None,
          lora: dict | None = None, **settings):  # fmt: skip
    """Train an adapter of the model in ``directory``; returns ``train``'s result."""
    from cotdistill.hardware import Placement
    from cotdistill.settings.lora import Lora
    from cotdistill.settings.train import TrainSettings
    from cotdistill.training import train

    model = model or on_cpu(directory)
    shape = Lora(**{"dropout": 0.0, **(lora or {})})
    chosen = TrainSettings(**{"num_epochs": 1, "gradient_accumulation_steps": 1, "lora": shape, **settings})
    return train(
        model, examples or make_examples(model, rows), chosen, output, system_prompt="Add.",
        placement=Placement("cpu", "float32", False, None), show=show,
    )  # fmt: skip


def weights(directory: Path):
    """The tensors of the adapter in ``directory``, by name."""
    from safetensors.torch import load_file

    return load_file(directory / "adapter_model.safetensors")


def index_of_scores(path: Path):
    """What a file of a teacher's scores says of its tensors."""
    import json

    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["index"])
