"""Conversion: the directory computes what the GGUF says, or there is no directory."""

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from conftest import on_cpu
from cotdistill.errors import SetupError
from cotdistill.identity import sha256_of
from cotdistill.model_files import conversion
from cotdistill.model_files.conversion import SOURCE_FILE, is_converted, to_hugging_face
from cotdistill.model_files.gguf_file import write_gguf as export
from cotdistill.model_files.gguf_header import read_header
from test_gguf_file import ASKED, make_other

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = list(bytes_to_unicode().values())
MERGES = ["Ċ Ċ", "h e"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(scope="session")
def original() -> LlamaForCausalLM:
    """A random Llama of 2 layers with 4 query and 2 key heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(BYTES) + len(MERGES), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        rope_theta=10_000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp stores the two halves of each rotary head woven into each other."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path, model: LlamaForCausalLM, head: torch.Tensor | None = None, without: str = "", base: float = 10_000.0,
    scaling: str = "none", more: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """``model`` as llama.cpp's converter would write it, unquantised, with an output head of its own if given; ``more``
    are names of tensors that transformers has no place for."""
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(base)
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*SPECIAL, *BYTES, *(merge.replace(" ", "") for merge in MERGES)])
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(BYTES) + len(MERGES)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    tensors = {"token_embd": weights["model.embed_tokens.weight"], "output_norm": weights["model.norm.weight"]}
    if head is not None:
        tensors["output"] = head
    for layer in range(config.num_hidden_layers):
        for theirs, ours in NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(ours)
            tensors[f"blk.{layer}.{ours}"] = interleaved(weight, heads) if heads else weight
    for name, weight in tensors.items():
        if name != without:
            writer.add_tensor(f"{name}.weight", weight.contiguous().numpy())
    for name in more:
        writer.add_tensor(name, torch.ones(32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def source(original, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", original)


@pytest.fixture(scope="session")
def converted(source, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("converted")
    to_hugging_face(source, directory)
    return directory


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(3, 60)[None]).logits


def test_the_converted_model_computes_the_same_logits(original, converted):
    model = AutoModelForCausalLM.from_pretrained(converted)
    torch.testing.assert_close(logits(model), logits(original), atol=1e-5, rtol=0)
    assert model.config.tie_word_embeddings
    assert not hasattr(model.config, "quantization_config")


def test_an_output_head_of_its_own_is_tied_only_if_it_is_equal(original, tmp_path):
    embeddings = original.get_input_embeddings().weight.detach()
    for name, head in (("equal", embeddings), ("other", embeddings + 0.01)):
        to_hugging_face(write_gguf(tmp_path / f"{name}.gguf", original, head), tmp_path / name)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert model.config.tie_word_embeddings == (name == "equal")
        assert torch.equal(model.get_output_embeddings().weight, head)
        assert torch.equal(model.get_input_embeddings().weight, embeddings)


def test_special_tokens_and_the_chat_template_are_the_files_own(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 128
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "he"}], return_dict=False)
    assert ids == [1, len(SPECIAL) + len(BYTES) + 1, 2]
    generation = json.loads((converted / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)


def test_smollm_cuts_digits_off_before_it_joins_line_ends(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("\n\n57", add_special_tokens=False).input_ids)
    assert tokens == ["ĊĊ", "5", "7"]


def test_the_directory_says_where_it_came_from(source, converted):
    note = json.loads((converted / SOURCE_FILE).read_text())
    assert note == {
        "file": "tiny.gguf", "sha256": sha256_of(source), "architecture": "llama", "quantisation": "ALL_F32",
        "dtype": "float32",
    }  # fmt: skip
    assert not [path for path in converted.iterdir() if path.name.startswith(".") or path.suffix == ".gguf"]


def test_converting_again_changes_nothing_and_another_model_is_refused(original, source, converted, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in converted.iterdir()}
    to_hugging_face(source.parent, converted)
    assert {path.name: path.stat().st_mtime_ns for path in converted.iterdir()} == before
    other = write_gguf(tmp_path / "other.gguf", original, head=torch.zeros_like(original.lm_head.weight))
    with pytest.raises(SetupError, match="already holds a model"):
        to_hugging_face(other, converted)
    assert {path.name: path.stat().st_mtime_ns for path in converted.iterdir()} == before


def test_two_at_once_convert_once_and_both_find_it_whole(source, tmp_path, monkeypatch):
    loaded, load = [], conversion.load_weights
    monkeypatch.setattr(conversion, "load_weights", lambda *one: loaded.append(one) or time.sleep(1) or load(*one))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(to_hugging_face, source, tmp_path / "to") for _ in range(2)]:
            done.result()
    assert len(loaded) == 1
    assert is_converted(tmp_path / "to", sha256_of(source))
    assert not list((tmp_path / "to").glob(".*"))


def test_a_directory_that_only_holds_a_gitkeep_is_filled(source, tmp_path):
    (tmp_path / ".gitkeep").touch()
    to_hugging_face(source, tmp_path)
    assert is_converted(tmp_path, sha256_of(source))
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32


def test_a_full_disk_leaves_nothing_and_the_next_try_works(source, tmp_path, monkeypatch):
    def full(self, directory, **options):
        (Path(directory) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", full)
        with pytest.raises(SetupError, match=r"cannot write to .*: the disk is full; free some space"):
            to_hugging_face(source, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    to_hugging_face(source, tmp_path / "to")
    assert is_converted(tmp_path / "to", sha256_of(source))


def test_a_conversion_killed_while_moving_files_is_done_again(source, tmp_path, monkeypatch):
    moved = []

    def killed(old, new):
        if len(moved) == 4:
            raise KeyboardInterrupt
        moved.append(Path(new).name)
        os.rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(conversion.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            to_hugging_face(source, tmp_path)
    assert moved[0] == SOURCE_FILE
    assert "model.safetensors" in moved
    assert not (tmp_path / "config.json").exists()
    to_hugging_face(source, tmp_path)
    assert is_converted(tmp_path, sha256_of(source))


def test_missing_weights_are_an_error_not_random_numbers(original, tmp_path):
    file = write_gguf(tmp_path / "lacking.gguf", original, without="blk.1.ffn_up")
    with pytest.raises(SetupError, match=r"lacks weights.*model\.layers\.1\.mlp\.up_proj"):
        to_hugging_face(file, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"base": 500_000.0}, None),
        ({"scaling": "linear"}, r"rotary embeddings are scaled \(linear\)"),
        ({"more": ("rope_freqs.weight",)}, "does not read some of its weights"),
        ({"more": ("blk.0.attn_q.bias",)}, "does not read some of its weights"),
    ],
)
def test_what_transformers_would_leave_out_without_a_word_is_refused(original, tmp_path, odd, said):
    file = write_gguf(tmp_path / "odd.gguf", original, **odd)
    if said is None:
        to_hugging_face(file, tmp_path / "to")
        assert json.loads((tmp_path / "to/config.json").read_text())["rope_parameters"]["rope_theta"] == odd["base"]
        return
    with pytest.raises(SetupError, match=said):
        to_hugging_face(file, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_head_that_is_turned_in_part_only_is_refused_where_that_is_lost(original, source):
    header, state = read_header(source), original.state_dict()
    conversion._refuse_what_is_lost(source, header, original.config, state)
    half = msgspec.structs.replace(header, rope_dimensions=4)  # of the 8 of each head
    with pytest.raises(SetupError, match="how much of a head"):
        conversion._refuse_what_is_lost(source, half, original.config, state)


@pytest.mark.parametrize("length", [0, 3, 30, 5_000, -40])
def test_what_is_no_whole_gguf_is_one_sentence(source, tmp_path, length):
    file = tmp_path / "torn.gguf"
    file.write_bytes(source.read_bytes()[:length])
    with pytest.raises(SetupError, match="is not a whole GGUF file"):
        read_header(file)


def test_a_directory_must_hold_exactly_one_gguf(source, tmp_path):
    with pytest.raises(SetupError, match="exactly one; found: none"):
        to_hugging_face(tmp_path, tmp_path / "to")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(source.read_bytes())
    with pytest.raises(SetupError, match=r"exactly one; found: a\.gguf, b\.gguf"):
        to_hugging_face(tmp_path, tmp_path / "to")


def test_a_qwen3_comes_back_from_its_own_export(tmp_path):
    model = on_cpu(make_other(tmp_path / "base", "qwen3", head_dim=128))
    export(model, tmp_path / "a.gguf", quant="f16", card=None)
    to_hugging_face(tmp_path / "a.gguf", tmp_path / "back")
    for parameter in model.module.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.half().float()
    back = on_cpu(tmp_path / "back")
    torch.testing.assert_close(logits(back.module), logits(model.module), atol=1e-4, rtol=0)
    assert back.template.prompt_ids(ASKED) == model.template.prompt_ids(ASKED)


@pytest.mark.parametrize(("kind", "why"), [("smollm3", "smollm3 is not supported"), ("qwen3", "ignore_mismatched_sizes")])
def test_what_transformers_cannot_read_is_refused(tmp_path, kind, why):
    export(on_cpu(make_other(tmp_path / "base", kind)), tmp_path / "a.gguf", quant="f16", card=None)
    with pytest.raises(SetupError, match=f"transformers cannot read .*{why}"):
        to_hugging_face(tmp_path / "a.gguf", tmp_path / "back")
    assert not list((tmp_path / "back").glob("*.safetensors"))
