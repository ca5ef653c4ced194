"""Adapters: loading gives back exactly what was trained, on the base it was trained on, or says why not."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from conftest import CHATML, make_gpt2, make_model, on_cpu, teach, weights
from cotdistill.adapter import DEFAULT_TARGETS, load_adapter
from cotdistill.card import AdapterCard, check_adapter, read_card
from cotdistill.commands.evaluate import evaluate
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash

PROMPT = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A trained adapter's directory, and the logits of the model in memory that it was saved from."""
    output = tmp_path_factory.mktemp("adapter")
    torch.set_num_threads(1)
    model = on_cpu(tiny)
    teach(tiny, output, model=model, num_epochs=2, learning_rate=1e-2)
    return output, logits(model.module)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained adapter to damage."""
    shutil.copytree(trained[0], tmp_path / "adapter", ignore=shutil.ignore_patterns("checkpoints"))
    return tmp_path / "adapter"


def logits(module):
    with torch.no_grad():
        return module(input_ids=PROMPT).logits


def test_a_loaded_adapter_computes_what_the_trained_one_did(tiny, trained):
    output, expected = trained
    model = on_cpu(tiny)
    before = logits(model.module)
    loaded = load_adapter(model, output)
    assert not loaded.training
    assert (logits(loaded) - expected).abs().max() < 1e-5
    assert (before - expected).abs().max() > 1e-3  # the adapter does something


def test_merging_in_memory_changes_no_answer_and_no_embedding(tiny, trained):
    output, expected = trained
    model = on_cpu(tiny)
    embeddings = model.module.get_input_embeddings().weight.clone()
    loaded = load_adapter(model, output)
    loaded.merge_adapter()
    assert (logits(loaded) - expected).abs().max() < 1e-5
    assert torch.equal(model.module.get_input_embeddings().weight, embeddings)


def test_an_adapter_loads_with_its_base_elsewhere_and_without_a_network(
    tiny, trained, tmp_path, monkeypatch, recwarn
):
    def refuse(*_):
        raise AssertionError("an adapter must load without a network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    shutil.copytree(tiny, tmp_path / "moved")
    assert (logits(load_adapter(on_cpu(tmp_path / "moved"), trained[0])) - trained[1]).abs().max() < 1e-5
    assert not [w for w in recwarn if "base_model" in str(w.message)]


def test_plain_peft_loads_the_adapter_too(tiny, trained):
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(on_cpu(tiny).module, str(trained[0])).eval()
    assert (logits(loaded) - trained[1]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["use_dora", "use_rslora"])
def test_dora_and_rslora_load_and_merge_as_they_were_trained(tiny, tmp_path, kind):
    model = on_cpu(tiny)
    teach(tiny, tmp_path, model=model, num_epochs=2, learning_rate=1e-2, lora={kind: True})
    assert json.loads((tmp_path / "adapter_config.json").read_text())[kind] is True
    assert any("magnitude" in name for name in weights(tmp_path)) is (kind == "use_dora")
    loaded = load_adapter(on_cpu(tiny), tmp_path)
    assert (logits(loaded) - logits(model.module)).abs().max() < 1e-5
    loaded.merge_adapter()
    assert (logits(loaded) - logits(model.module)).abs().max() < 1e-5


def test_rslora_scales_by_the_root_of_the_rank(tiny, tmp_path):
    teach(tiny, tmp_path, lora={"use_rslora": True, "r": 4, "alpha": 16})
    layer = load_adapter(on_cpu(tiny), tmp_path).base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 8  # Kalajdzievski 2023; plain LoRA's would be 4


def test_a_dora_adapter_without_its_magnitudes_is_refused(tiny, tmp_path):
    teach(tiny, tmp_path, lora={"use_dora": True})
    kept = {name: tensor for name, tensor in weights(tmp_path).items() if "magnitude" not in name}
    save_file(kept, tmp_path / "adapter_model.safetensors")
    with pytest.raises(SetupError, match=r"12 missing, .*lora_magnitude_vector"):
        load_adapter(on_cpu(tiny), tmp_path)


def test_the_card_says_what_the_student_was_trained_with(tiny, trained):
    card = read_card(trained[0])
    assert card == AdapterCard("Add.", hashlib.sha256(CHATML.encode()).hexdigest()[:16], model_hash(tiny), tiny.name, False)


def test_what_ends_an_answer_is_saved_for_whoever_generates_without_us(tiny, trained):
    template = on_cpu(tiny).template
    saved = GenerationConfig.from_pretrained(trained[0])
    assert template.end_of_turn in saved.eos_token_id
    assert (saved.eos_token_id, saved.pad_token_id) == (template.stop_ids, template.pad_id)
    assert not saved.do_sample


def test_an_adapter_from_elsewhere_has_no_card_and_loads(tiny, copy, trained):
    (copy / "cotdistill.json").unlink()
    assert read_card(copy) is None
    assert (logits(load_adapter(on_cpu(tiny), copy)) - trained[1]).abs().max() < 1e-5


@pytest.mark.parametrize("text", ["{", "[]", '{"system_prompt": 3}', ""])
def test_a_broken_card_is_refused(tiny, copy, text):
    (copy / "cotdistill.json").write_text(text)
    with pytest.raises(SetupError, match="not a cotdistill card"):
        load_adapter(on_cpu(tiny), copy)


def test_no_file_of_an_adapter_names_a_path_of_the_machine_that_trained(tiny, trained):
    config = json.loads((trained[0] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny.name
    for file in trained[0].iterdir():
        if file.is_file():
            assert str(tiny.parent).encode() not in file.read_bytes(), file.name


def test_the_weights_may_be_read_by_whoever_may_read_the_rest_of_an_adapter(trained):
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in trained[0].iterdir() if file.is_file()}
    assert modes["adapter_model.safetensors"] == modes["adapter_config.json"]


# What does not fit


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, first: tensors.pop(first),
        lambda tensors, first: tensors.update(
            {first.replace("layers.0", "layers.7"): tensors[first].clone()}
        ),
        lambda tensors, first: tensors.update({first: tensors[first][:1].contiguous()}),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_weights_that_do_not_fit_are_named_and_refused(tiny, copy, damage):
    tensors = weights(copy)
    first = min(tensors)
    damage(tensors, first)
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(
        SetupError, match=r"1 missing, unexpected or misshapen weights, first base_model.*layers\.[07]"
    ):
        load_adapter(on_cpu(tiny), copy)


def test_another_base_model_is_refused_by_both_names(trained, tmp_path, tiny):
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(SetupError, match=rf"trained on {tiny.name} \(\w{{16}}\), not on other \(\w{{16}}\)"):
        load_adapter(on_cpu(other), trained[0])


def test_the_same_weights_under_another_chat_template_are_refused(tiny, trained, tmp_path):
    shutil.copytree(tiny, tmp_path / "changed")
    (tmp_path / "changed" / "chat_template.jinja").write_text(CHATML.replace("assistant", "bot"))
    with pytest.raises(SetupError, match="another chat template"):
        load_adapter(on_cpu(tmp_path / "changed"), trained[0])


def test_an_adapter_for_layers_the_model_lacks_is_refused(copy, tmp_path):
    (copy / "cotdistill.json").unlink()
    with pytest.raises(SetupError, match="does not fit"):
        load_adapter(on_cpu(make_gpt2(tmp_path / "gpt2")), copy)


def test_a_pickled_adapter_is_refused(tiny, copy):
    torch.save(weights(copy), copy / "adapter_model.bin")
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(
        SetupError, match=r"no adapter_model\.safetensors; pickled adapters \(\.bin\) are not read"
    ):
        load_adapter(on_cpu(tiny), copy)


def test_a_directory_that_is_no_adapter_is_refused(tiny, tmp_path):
    with pytest.raises(SetupError, match=r"no adapter_config\.json"):
        load_adapter(on_cpu(tiny), tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", b"cut"),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b'{"peft_type": "IA3", "target_modules": ["q_proj"]}'),
    ],
)
def test_a_damaged_adapter_is_refused(tiny, copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(SetupError, match=r"cannot be read|does not fit"):
        load_adapter(on_cpu(tiny), copy)


# Targets


def test_the_default_targets_are_the_documented_ones(tiny, tmp_path):
    result = teach(tiny, tmp_path)
    assert result.targets == "LoRA on q_proj, k_proj, v_proj, o_proj, up_proj, down_proj"
    assert {name.split(".")[-3] for name in weights(tmp_path)} == set(DEFAULT_TARGETS)


def test_a_misspelt_target_lists_the_layers_there_are(tiny, tmp_path):
    with pytest.raises(
        SetupError, match=r"target_modules q_porj: .*it has down_proj, gate_proj, k_proj, .*v_proj"
    ):
        teach(tiny, tmp_path, lora={"targets": ("q_porj", "v_proj")})


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_embeddings_and_output_head_are_no_targets(tiny, tmp_path, name):
    with pytest.raises(SetupError, match=f"target_modules {name}"):
        teach(tiny, tmp_path, lora={"targets": (name,)})


def test_a_model_without_q_proj_gets_all_linear_layers_and_says_so(tmp_path):
    gpt2 = make_gpt2(tmp_path / "gpt2")
    result = teach(gpt2, tmp_path / "out")
    assert (
        result.targets
        == "the model lacks some of q_proj ... down_proj: LoRA on its linear layers: c_attn, c_fc, c_proj"
    )
    assert result.steps == 1
    assert {name.split(".")[-3] for name in weights(tmp_path / "out")} == {"c_attn", "c_fc", "c_proj"}
    load_adapter(on_cpu(gpt2), tmp_path / "out")


def test_what_is_given_for_an_adapter_is_called_what_it_is(tiny, tmp_path):
    (tmp_path / "run/5_adapter").mkdir(parents=True)
    (tmp_path / "q.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}')
    for path, said in [
        (tmp_path / "run", f"is a run directory; its adapter is {tmp_path / 'run/5_adapter'}"),
        (tiny, "is a whole model and no adapter: give it as --base_model, without --lora_model"),
        (tiny / "model.safetensors", "is a file; an adapter is the directory with its adapter_config"),
        (tmp_path / "nowhere", "no adapter at .*nowhere; train one first, or check --lora_model"),
    ]:
        with pytest.raises(SetupError, match=said):
            check_adapter(path)
        with pytest.raises(SetupError, match=said):
            evaluate(str(tiny), tmp_path / "q.jsonl", tmp_path / "out.jsonl", lora_model=path)


def test_an_adapter_without_its_weights_says_how_they_come_back(tiny, copy):
    (copy / "adapter_model.safetensors").unlink()
    with pytest.raises(SetupError, match=r"no adapter_model\.safetensors; put it back, or train again"):
        load_adapter(on_cpu(tiny), copy)
