"""Adapters as GGUF: llama.cpp applies them to the base as merging would, or they are not written."""

import json
import shutil

import msgspec
import pytest
import torch
from gguf import GGUFReader

from conftest import on_cpu
from cotdistill.adapter import attach, load_adapter, save_adapter
from cotdistill.card import AdapterCard
from cotdistill.commands.evaluate import evaluate
from cotdistill.engines.opening import open_engine
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash
from cotdistill.model_files.gguf_adapter import write_gguf_adapter
from cotdistill.model_files.gguf_file import write_gguf
from cotdistill.settings.lora import Lora
from cotdistill.template import ChatTemplate
from test_gguf_file import ASKED, CARD, make_other, make_student


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By kind: the base's directory, its GGUF, and an adapter that changes much."""
    root = tmp_path_factory.mktemp("adapters")
    found = {}
    for kind in ("llama", "qwen2", "qwen3", "smollm3"):
        base = make_student(root / kind) if kind == "llama" else make_other(root / kind, kind)
        model = on_cpu(base)
        write_gguf(model, root / f"{kind}.gguf", quant="f16", card=CARD)
        adapted, _ = attach(model, Lora(r=4, alpha=16, dropout=0.0, use_rslora=kind == "qwen2"))
        torch.manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.5)
        card = AdapterCard("Add.", model.template.hash, model_hash(base), base.name)
        save_adapter(adapted, root / f"{kind}-adapter", card)
        found[kind] = base, root / f"{kind}.gguf", root / f"{kind}-adapter"
    return found


def likeliest(engine, ids):
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "top_k": 1, "n_probs": 5, "logprobs": 5}
    row = engine._server.handle_completions(body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {one["id"]: one["logprob"] for one in row}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "smollm3"])
def test_llama_cpp_computes_what_base_and_adapter_do(made, kind):
    base, gguf, adapter = made[kind]
    model = on_cpu(base)
    ids = torch.tensor([model.template.prompt_ids(ASKED)])
    with torch.no_grad():
        plain = model.module(input_ids=ids).logits[0, -1].log_softmax(-1)
        expected = load_adapter(model, adapter)(input_ids=ids).logits[0, -1].log_softmax(-1)
    engine = open_engine(str(gguf), adapter=adapter, batch_size=1, context=256)
    found = likeliest(engine, ids[0].tolist())
    engine.close()
    away = max(abs(float(expected[token]) - value) for token, value in found.items())
    assert away < 0.02
    assert max(abs(float(plain[token]) - value) for token, value in found.items()) > 5 * away


def test_what_llama_cpp_cannot_apply_is_refused(made, tmp_path):
    _, gguf, adapter = made["llama"]
    with pytest.raises(SetupError, match="does not fit"):
        write_gguf_adapter(made["qwen2"][2], gguf, tmp_path / "a.gguf")
    config = json.loads((adapter / "adapter_config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    (other / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(SetupError, match="no adapter with use_dora"):
        write_gguf_adapter(other, gguf, tmp_path / "a.gguf")
    (other / "adapter_config.json").write_text(json.dumps(config))
    card = AdapterCard("Add.", "0" * 16, "", "tiny")
    (other / "cotdistill.json").write_bytes(msgspec.json.encode(card))
    with pytest.raises(SetupError, match="another chat template"):
        write_gguf_adapter(other, gguf, tmp_path / "a.gguf")
    with pytest.raises(SetupError, match="cannot be read"):
        write_gguf_adapter(tmp_path, gguf, tmp_path / "a.gguf")
    for change, said in (({"peft_type": "IA3"}, "is a IA3 adapter"), ({"alora_invocation_tokens": [1]}, "with alora")):
        (other / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(SetupError, match=said):
            write_gguf_adapter(other, gguf, tmp_path / "a.gguf")
    (tmp_path / "torn.gguf").write_bytes(gguf.read_bytes()[:3000])
    with pytest.raises(SetupError, match="not a whole GGUF file"):
        write_gguf_adapter(adapter, tmp_path / "torn.gguf", tmp_path / "a.gguf")


def test_a_template_that_says_the_day_of_training_is_no_other_one(made, tmp_path):
    base, _, adapter = made["llama"]
    model = on_cpu(base)
    model.tokenizer.chat_template += "{{ date_string }}"
    model.template = ChatTemplate(model.tokenizer)
    own = tmp_path / "adapter"
    shutil.copytree(adapter, own)
    card = AdapterCard("Add.", model.template.hash, model_hash(base), base.name)
    (own / "cotdistill.json").write_bytes(msgspec.json.encode(card))
    write_gguf(model, tmp_path / "dated.gguf", quant="f16", card=None)
    write_gguf_adapter(own, tmp_path / "dated.gguf", tmp_path / "a.gguf")


def test_without_a_chat_template_llama_cpp_would_take_another(made, tmp_path, monkeypatch):
    _, gguf, adapter = made["llama"]
    field = GGUFReader.get_field
    monkeypatch.setattr(
        GGUFReader, "get_field", lambda self, key: None if key == "tokenizer.chat_template" else field(self, key)
    )
    with pytest.raises(SetupError, match="has no chat template"):
        write_gguf_adapter(adapter, gguf, tmp_path / "a.gguf")


def test_evaluate_asks_a_gguf_base_with_and_without_the_adapter(made, tmp_path, capsys):
    _, gguf, adapter = made["llama"]
    (tmp_path / "test.jsonl").write_text('{"question": "2 + 3?", "answer": "5"}\n')
    evaluate(
        base_model=str(gguf), lora_model=adapter, compare_base=True, test_file=tmp_path / "test.jsonl",
        output_file=tmp_path / "student.jsonl", max_new_tokens=8, batch_size=1, quiet=True,
    )  # fmt: skip
    student, base = (json.loads((tmp_path / f"{name}.jsonl").read_text()) for name in ("student", "student.base"))
    assert student["finish"] in ("stop", "length")
    assert student["response"] != base["response"]
