"""GGUF files: llama.cpp computes from them what the merged model computes, or they are not written."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import conftest
from conftest import CHATML, LLAMA, THINK, adding_bos, make_gpt2, make_model, make_tokenizer, on_cpu
from cotdistill.card import AdapterCard, read_card
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.llama_cpp import LlamaCppEngine
from cotdistill.errors import SetupError
from cotdistill.model_files import gguf_file
from cotdistill.model_files.gguf_file import check_writable, write_gguf
from cotdistill.model_files.modelfile import modelfile, turns_of
from cotdistill.model_files.quantisation import quantised, tensor_type
from cotdistill.model_files.vocabulary import read_vocabulary
from cotdistill.template import ChatTemplate
from test_thinking import FORCED, SWITCHED

CARD = AdapterCard("Add.", "t" * 16, "b" * 16, "tiny")
ASKED = (Message("system", "Add."), Message("user", "What is the sum of 12 and 30?"))
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def cutting(words):
    """Text is cut by a regular expression, then into bytes."""
    from tokenizers import Regex, pre_tokenizers

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), bytes_])


SPLIT = {"qwen3": cutting(WORDS.replace("{1,3}", "")), "smollm3": cutting(WORDS)}
"""How the tokenizers of these models cut text into words; SmolLM3's is Llama 3's."""


def merging_tokenizer(template: str | None = CHATML, eos: str = "<|im_end|>", pad: str | None = None):
    """The tiny tokenizer with a few merges, without which llama.cpp loads no BPE tokenizer; ``12`` is one token."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = make_tokenizer(template, eos, pad)
    parts = json.loads(plain.backend_tokenizer.to_str())
    for left, right in [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("1", "2")]:
        parts["model"]["vocab"][left + right] = len(parts["model"]["vocab"])
        parts["model"]["merges"].append([left, right])
    raw = Tokenizer.from_str(json.dumps(parts))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, pad_token=pad, bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


def make_student(directory, **options):
    """The tiny Llama of ``make_model`` with the tokenizer above."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "make_tokenizer", merging_tokenizer)
        return make_model(directory, **options)


def make_other(directory, kind, **more):
    """A Qwen2, Qwen3 or SmolLM3, or a Llama with a head of its own, Llama 3's rotary scaling and a tokenizer that adds
    BOS; ``more`` is said in its config. Biases and norms are random: one that is left out or shared would show."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)  # no near ties among its likeliest tokens
    tokenizer = adding_bos(merging_tokenizer(LLAMA, "<|eot_id|>")) if kind == "llama3" else merging_tokenizer()
    if kind in SPLIT:
        tokenizer.backend_tokenizer.pre_tokenizer = SPLIT[kind]
    shape = {
        "vocab_size": len(tokenizer) + 5, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": False, "initializer_range": 0.2,
    }  # fmt: skip
    scaled = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    special = {
        "llama3": {"rope_parameters": scaled},
        "qwen3": {"head_dim": 32},  # not the width through the heads, as in Qwen3 0.6B and 4B
        "smollm3": {"num_hidden_layers": 5, "pad_token_id": None},  # the fourth turns nothing by its position
    }
    config = AutoConfig.for_model(kind.replace("llama3", "llama"), **shape | special.get(kind, {}) | more)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data.normal_(0.0 if name.endswith("bias") else 1.0, 0.2)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of models of which GGUFs can be written."""
    root = tmp_path_factory.mktemp("models")
    made = {"llama": make_student(root / "llama")}
    return made | {kind: make_other(root / kind, kind) for kind in ("qwen2", "llama3", "qwen3", "smollm3")}


def distance(path, model):
    """The largest difference of a log-probability of a likely next token between llama.cpp and the model, over some
    prompts. llama.cpp reports no token that is a part of a character, so prompts that lead to one are left out."""
    from cotdistill.engines.llama_cpp import LlamaCppEngine

    engine = LlamaCppEngine(path, slots=1, context=256)
    differences = []
    for number in range(100):
        ids = model.template.prompt_ids((*ASKED[:1], Message("user", f"What is {number} + 12 of the {number}?")))
        with torch.no_grad():
            expected = model.module(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        likeliest = model.tokenizer.decode([int(expected.argmax())])
        if likeliest.isascii() and not likeliest.startswith("<"):
            body = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "top_k": 1, "n_probs": 5, "logprobs": 5}
            row = engine._server.handle_completions(body)["choices"][0]["logprobs"]["content"][0]
            differences += [abs(float(expected[one["id"]]) - one["logprob"]) for one in row["top_logprobs"]]
        if len(differences) == 15:
            break
    engine.close()
    assert len(differences) == 15
    return max(differences)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "llama3", "qwen3", "smollm3"])
def test_llama_cpp_computes_what_the_model_does(models, kind, tmp_path):
    model = on_cpu(models[kind])
    assert write_gguf(model, tmp_path / "a.gguf", quant="f16", card=CARD)
    assert distance(tmp_path / "a.gguf", model) < 0.02
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize(("quant", "bound"), [("q8_0", 0.3), ("q4_k_m", 1.0)])
def test_quantised_files_stay_near_the_model_and_are_smaller(models, quant, bound, tmp_path):
    model = on_cpu(models["qwen2"])
    write_gguf(model, tmp_path / "a.gguf", quant="f16", card=None)
    write_gguf(model, tmp_path / "b.gguf", quant=quant, card=None)
    assert 0 < distance(tmp_path / "b.gguf", model) < bound
    assert (tmp_path / "b.gguf").stat().st_size < (tmp_path / "a.gguf").stat().st_size


def test_the_file_carries_card_template_and_the_end_of_turn(models, tmp_path):
    from gguf import GGUFReader

    model = on_cpu(models["llama"])
    write_gguf(model, tmp_path / "a.gguf", quant="q8_0", card=CARD)
    assert read_card(tmp_path / "a.gguf") == CARD
    reader = GGUFReader(tmp_path / "a.gguf")
    assert reader.get_field("tokenizer.ggml.eos_token_id").contents() == model.template.end_of_turn
    assert reader.get_field("tokenizer.chat_template").contents() == CHATML
    assert reader.get_field("tokenizer.ggml.pre").contents() == "gpt-2"


def test_a_file_without_a_card_has_none(models, tmp_path):
    write_gguf(on_cpu(models["llama"]), tmp_path / "a.gguf", quant="q8_0", card=None)
    assert read_card(tmp_path / "a.gguf") is None


def test_a_template_that_writes_the_day_writes_the_one_of_training(models, tmp_path):
    from gguf import GGUFReader

    model = on_cpu(models["llama"])
    model.tokenizer.chat_template = CHATML.replace("assistant\n", "assistant\n{{ date_string }}")
    model.template = ChatTemplate(model.tokenizer)
    write_gguf(model, tmp_path / "a.gguf", quant="f16", card=None)
    written = GGUFReader(tmp_path / "a.gguf").get_field("tokenizer.chat_template").contents()
    assert written.startswith("{%- set date_string = '01 Jan 2025' %}")


def test_a_student_without_a_chat_template_is_asked_in_the_same_tokens(tmp_path):
    model = on_cpu(make_student(tmp_path / "model", template=None))
    write_gguf(model, tmp_path / "a.gguf", quant="f16", card=None)
    engine = LlamaCppEngine(tmp_path / "a.gguf", slots=1, context=256)
    try:
        asked = (Message("system", "Add."), Message("user", "the sum of 12 and 30?"))  # " the" is one token
        assert engine.prompt_ids(asked) == model.template.prompt_ids(asked)
        assert model.tokenizer.convert_tokens_to_ids("Ġthe") in model.template.prompt_ids(asked)
    finally:
        engine.close()


@pytest.mark.parametrize("source", [SWITCHED, FORCED])
@pytest.mark.parametrize("thinking", [False, True])
def test_llama_cpp_is_asked_to_think_or_not_as_the_student_is(tmp_path, monkeypatch, source, thinking):
    directory = make_student(tmp_path / "model", template=source)
    model = on_cpu(directory)
    model.template = ChatTemplate(model.tokenizer, thinking=thinking)
    write_gguf(model, tmp_path / "ours.gguf", quant="f16", card=None)  # which holds the prompts against each other
    monkeypatch.setattr(ChatTemplate, "exported", source)  # as in a file that others have made
    monkeypatch.setattr(gguf_file, "_answers_alike", lambda *_: True)
    write_gguf(model, tmp_path / "theirs.gguf", quant="f16", card=None)
    engine = LlamaCppEngine(tmp_path / "theirs.gguf", slots=1, context=256)
    try:
        for messages in (ASKED, (Message("user", "Write <|im_end|> and <think>."),)):
            for how in (False, True):
                assert engine.prompt_ids(messages, thinking=how) == model.template.prompt_ids(messages, thinking=how)
        [answer] = engine.complete([Request("q", ASKED)], Sampling(max_new_tokens=3, thinking=thinking))
        assert answer.prompt_tokens == len(model.template.prompt_ids(ASKED))
        assert not answer.error
    finally:
        engine.close()


# What is refused


def test_a_prompt_that_llama_cpp_reads_otherwise_is_refused_and_leaves_no_file(models, tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_text("an older one")
    monkeypatch.setattr(gguf_file, "adds_bos", lambda model: True)  # llama.cpp will put a BOS in front
    with pytest.raises(SetupError, match=r"reads its prompts as other tokens"):
        write_gguf(on_cpu(models["llama"]), tmp_path / "a.gguf", quant="f16", card=None)
    assert (tmp_path / "a.gguf").read_text() == "an older one"
    assert len(list(tmp_path.iterdir())) == 1


def test_other_architectures_are_refused_by_name(tmp_path):
    with pytest.raises(SetupError, match="for llama, qwen2, qwen3 and smollm3 models, and this is a gpt2"):
        check_writable(on_cpu(make_gpt2(tmp_path / "gpt2")), "f16")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "scaled by 'yarn'"),
        ("qwen3", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "scaled as Llama 3's in qwen3 models"),
        ("qwen2", {"use_sliding_window": True}, "no sliding window for qwen2 models"),
        ("qwen3", {"use_sliding_window": True}, "no sliding window for qwen3 models"),
        ("qwen2", {"hidden_act": "gelu"}, "silu for qwen2 models, not gelu"),
        ("qwen2", {"head_dim": 12}, "no heads of 12"),
        ("qwen3", {"attention_bias": True}, "no biases in qwen3 models"),
        ("smollm3", {"mlp_bias": True}, "no biases in smollm3 models"),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1]}, "every fourth layer of a smollm3 without positions"),
    ],
)
def test_what_the_file_could_not_say_is_refused(models, kind, change, message):
    model = on_cpu(models[kind])
    for name, value in change.items():
        setattr(model.module.config, name, value)
    with pytest.raises(SetupError, match=message):
        check_writable(model, "f16")


def test_k_quants_without_llama_cpps_quantizer_are_refused_and_the_others_are_not(models, monkeypatch):
    import xllamacpp

    monkeypatch.setattr(xllamacpp, "xllamacpp", SimpleNamespace(__file__="/nowhere.so"))
    with pytest.raises(SetupError, match="q8_0 and f16 work"):
        check_writable(on_cpu(models["llama"]), "q4_k_m")
    check_writable(on_cpu(models["llama"]), "q8_0")


def test_a_weight_too_large_for_f16_is_refused():
    from gguf import GGMLQuantizationType as Type

    with pytest.raises(SetupError, match="too large for f16"):
        quantised(np.full((1, 32), 1e6, dtype=np.float32), Type.F16)


# Vocabulary


def pre_tokenized(rule):
    tokenizer = merging_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = rule
    return tokenizer


def test_the_splitting_rules_have_llama_cpps_names():
    from tokenizers import Regex, pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    regex = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    smollm = pre_tokenizers.Sequence([digits, regex])
    for rule, name in ((regex, "gpt-2"), (smollm, "smollm"), (SPLIT["smollm3"], "llama-bpe"), (SPLIT["qwen3"], "qwen2")):
        assert read_vocabulary(pre_tokenized(rule), 300).split == name
    only_words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    for rule in (pre_tokenizers.Sequence([digits, plain]), pre_tokenizers.Whitespace(), only_words, cutting(WORDS + "|x")):
        with pytest.raises(SetupError, match="splits words"):
            read_vocabulary(pre_tokenized(rule), 300)


def test_a_tokenizer_that_changes_text_otherwise_than_to_nfc_is_refused():
    from tokenizers import normalizers

    tokenizer = merging_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert read_vocabulary(tokenizer, 300).split == "gpt-2"
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    with pytest.raises(SetupError, match="changes text before it splits it"):
        read_vocabulary(tokenizer, 300)


def test_tokens_have_their_kind_and_rows_beyond_the_tokenizer_are_filled():
    tokenizer = merging_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    read = read_vocabulary(tokenizer, len(tokenizer) + 2)
    kinds = dict(zip(read.tokens, read.types, strict=True))
    assert (kinds["<|im_end|>"], kinds["<tool>"], kinds["he"], kinds[read.tokens[-1]]) == (3, 4, 1, 5)
    assert len(kinds) == len(tokenizer) + 2
    assert read.tokens[tokenizer.convert_tokens_to_ids("Ġthe")] == "Ġthe"
    assert read.merges == ["h e", "Ġ t", "Ġt he", "1 2"]


def test_a_tokenizer_that_is_no_byte_level_bpe_is_refused():
    from tokenizers import Tokenizer
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(kinds.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(SetupError, match="another kind"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=raw), 1)


# Quantisation


def test_q4_k_m_is_llama_cpps_mixture():
    def kind(name, shape=(256, 512), tied=False, blocks=24):
        return tensor_type(name, shape, "q4_k_m", blocks=blocks, tied=tied).name

    assert kind("output.weight") == kind("token_embd.weight", tied=True) == "Q6_K"
    assert kind("token_embd.weight") == kind("blk.0.attn_q.weight") == kind("blk.0.ffn_up.weight") == "Q4_K"
    assert kind("blk.0.attn_norm.weight", (512,)) == "F32"
    better = [i for i in range(24) if kind(f"blk.{i}.ffn_down.weight") == "Q6_K"]
    assert better == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]  # the blocks of the released Qwen2.5 0.5B files
    # Rows that are no multiple of 256 have no k-quant.
    assert kind("blk.0.attn_v.weight", (128, 896)) == "Q8_0"
    assert kind("blk.3.attn_v.weight", (128, 896)) == "Q5_0"


@pytest.mark.parametrize(("name", "error"), [("Q4_K", 0.08), ("Q6_K", 0.02), ("Q8_0", 0.006), ("F16", 0.0003)])
def test_a_tensor_survives_its_format_within_the_formats_precision(name, error):
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[name]
    weights = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    back = quants.dequantize(quantised(weights, kind), kind)
    assert error / 4 < np.sqrt(((back - weights) ** 2).mean()) < error


# Modelfile


def template_of(text, eos="<|im_end|>"):
    return SimpleNamespace(exported=text, tokenizer=make_tokenizer(text, eos), stop_ids=[0, 2])


def test_a_modelfile_says_turns_prompt_and_stops():
    text = modelfile("s.gguf", template_of(CHATML), CARD, context=512, adds_bos=False)
    assert text == (
        'FROM ./s.gguf\nTEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
        '<|im_start|>assistant\n"""\nSYSTEM """Add."""\nPARAMETER stop "!"\nPARAMETER stop "#"\n'
        "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\nPARAMETER num_ctx 512\n"
    )


def test_llama_3_turns_keep_their_preamble_and_a_bos_that_nobody_else_adds():
    dated = LLAMA.replace("{{ message['content']", "{% if message['role'] == 'system' %}Today: {{ date_string }}\n\n{% endif %}{{ message['content']")
    turns = turns_of(ChatTemplate(make_tokenizer(dated)))
    assert (turns.start, turns.preamble) == ("<s>", "Today: 01 Jan 2025\n\n")
    turn = (
        "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n"
        '{{ if eq .Role "system" }}Today: 01 Jan 2025\n\n{{ end }}{{ .Content }}<|eot_id|>{{ end }}'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert turns.go(start=True) == "<s>" + turn
    assert turns.go(start=False) == turn


def test_what_a_template_writes_after_the_system_prompt_stays():
    closed = CHATML.replace("<|im_end|>", "{% if message['role'] == 'system' %} Solve.{% endif %}<|im_end|>", 1)
    turns = turns_of(template_of(closed))
    assert (turns.preamble, turns.closing) == ("", " Solve.")
    assert '{{ .Content }}{{ if eq .Role "system" }} Solve.{{ end }}<|im_end|>' in turns.go(start=False)


def test_without_a_system_prompt_a_template_that_writes_its_own_gets_no_modelfile():
    own = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nI am Q.<|im_end|>\n{% endif %}" + CHATML
    assert "I am Q." not in modelfile("s.gguf", template_of(own), CARD, context=512, adds_bos=False)
    for card in (None, AdapterCard("", "", "", "")):
        with pytest.raises(SetupError, match="there is no system prompt"):
            modelfile("s.gguf", template_of(own), card, context=512, adds_bos=False)


def test_a_sample_is_rendered_as_the_chat_template_does():
    for template in (CHATML, LLAMA):
        rendered = make_tokenizer(template).apply_chat_template(
            [{"role": m.role, "content": m.content} for m in ASKED], add_generation_prompt=True, tokenize=False
        )
        assert turns_of(template_of(template)).rendered(ASKED) == rendered


@pytest.mark.parametrize(
    "template",
    ["{% for message in messages %}[INST]{{ message['content'] }}[/INST]{% endfor %}",
     CHATML.replace("message['content']", "message['content'] | lower"),
     "{{ raise_exception('no system') }}"],
)  # fmt: skip
def test_other_turns_get_no_modelfile(template):
    with pytest.raises(SetupError, match="Ollama"):
        turns_of(template_of(template))


def test_a_think_template_that_ends_turns_alike_is_chatml():
    assert turns_of(template_of(THINK)).before == "<|im_start|>{role}\n"


@pytest.mark.parametrize(("thinking", "opening"), [(False, "<think>\n\n</think>\n\n"), (True, "<think>\n")])
def test_a_modelfile_opens_or_closes_the_thought_as_in_training(thinking, opening):
    turns = turns_of(ChatTemplate(make_tokenizer(FORCED), thinking=thinking))
    assert turns.go(start=True).endswith(f"<|im_start|>assistant\n{opening}")


def test_a_prompt_that_a_modelfile_cannot_quote_is_refused():
    with pytest.raises(SetupError, match='holds """'):
        modelfile("s.gguf", template_of(CHATML), AdapterCard('a """ b', "", "", ""), context=512, adds_bos=False)
