"""Loading a model: what is not a whole Hugging Face directory is refused in one sentence."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config

from conftest import CHATML, make_model, on_cpu
from cotdistill.errors import SetupError, TrainingError
from cotdistill.hardware import Placement, place
from cotdistill.learning.rehearsal import rehearse
from cotdistill.model import context_of, load_model, read_config
from cotdistill.question import Question
from cotdistill.settings.train import TrainSettings


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny model to damage."""
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


def refused(directory, match):
    with pytest.raises(SetupError, match=match) as caught:
        on_cpu(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_context_of_a_multimodal_model_is_that_of_its_text(copy):
    Gemma3Config(text_config={"max_position_embeddings": 77}).save_pretrained(copy)
    assert context_of(read_config(copy)) == 77
    pairs = [("a#0", Question("a", "What is 1 + 1?"), "x" * 200)]
    with pytest.raises(TrainingError, match="77"):
        rehearse(copy, pairs, TrainSettings(), system="").stop()


def test_a_configuration_that_cannot_be_read_is_one_sentence(copy):
    (copy / "config.json").write_text('{"model_type": "of no library"}')
    with pytest.raises(SetupError, match="cannot read the configuration in"):
        read_config(copy)


def test_a_whole_directory_loads_in_eval_mode_with_its_context(tmp_path):
    model = on_cpu(make_model(tmp_path / "model", context=128))
    assert not model.module.training
    assert model.module.dtype == torch.float32
    assert model.context_length == 128


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped")
def test_weights_of_the_right_format_stay_pages_of_their_file_and_are_not_held_twice(copy):
    module = on_cpu(copy).module
    places = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(copy / "model.safetensors"))
    ]
    for name, weight in module.named_parameters():
        assert any(start <= weight.data_ptr() < stop for start, stop in places), name


def test_under_fsdp_a_model_stays_in_main_memory_until_it_is_sharded(tiny):
    assert load_model(tiny, Placement("cuda", "float32", False, "cpu")).module.device.type == "cpu"


def test_what_is_loaded_for_the_cpu_is_kept_from_a_gpu(monkeypatch):
    assert "device_map" not in Placement("cpu", "float32", False, None).load_options()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Placement("cpu", "float32", True, None).load_options()["device_map"] == "cpu"


@pytest.mark.parametrize("device_map", ["foo", "cuda:0", "cuda:x", "cpu:0", "mps", ""])
def test_a_device_that_is_not_here_is_refused(device_map, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SetupError, match=f"--device_map {device_map} is none of auto, .*, cpu, which are possible"):
        place(device_map=device_map)


def test_the_cpu_can_be_asked_for_beside_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    assert place(device_map="cpu") == Placement("cpu", "float32", False, "cpu")
    assert (place(device_map="cuda:1").device, place(device_map="cuda:1").device_map) == ("cuda", "cuda:1")
    with pytest.raises(SetupError, match="cuda:0, cuda:1, which are possible"):
        place(device_map="cuda:2")


def test_a_missing_pad_token_becomes_the_end_of_turn(tiny):
    model = on_cpu(tiny)
    assert model.tokenizer.pad_token == "<|im_end|>"
    assert model.module.config.pad_token_id == model.template.end_of_turn


def test_a_pytorch_model_bin_loads_the_same_weights(tiny, copy):
    (copy / "model.safetensors").unlink()
    torch.save(load_file(tiny / "model.safetensors"), copy / "pytorch_model.bin")
    loaded, expected = on_cpu(copy).module.state_dict(), on_cpu(tiny).module.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.items())


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_code_in_a_pytorch_model_bin_does_not_run(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    torch.save({"weight": Bomb(tmp_path / "ran")}, copy / "pytorch_model.bin")
    refused(copy, "damaged or holds more than weights")
    assert not (tmp_path / "ran").exists()


def test_what_is_not_there_is_named(tmp_path):
    refused(tmp_path / "nothing", "no model directory at")


def test_a_gguf_file_is_refused_with_the_command_that_converts_it(tmp_path):
    file = tmp_path / "teacher.gguf"
    file.write_bytes(b"GGUF")
    refused(file, r"is a GGUF file; .*cotdistill models convert")
    refused(tmp_path, r"holds a GGUF file; .*cotdistill models convert")


def test_a_directory_without_config_is_refused(copy):
    (copy / "config.json").unlink()
    refused(copy, r"has no config\.json")


def test_a_directory_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, r"no weights \(\*\.safetensors or pytorch_model\.bin\)")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "[]",
        "null",
        '"llama"',
        "{}",
        '{"model_type": "no-such"}',
        '{"model_type": ["llama"]}',
        "\udc80",
    ],
)
def test_a_broken_config_is_refused(copy, text):
    (copy / "config.json").write_text(text, errors="surrogateescape")
    refused(copy, r"config\.json|cannot load the model")


@pytest.mark.parametrize("content", [b"garbage, and more of it", b"\x02" + bytes(7) + b"[]"])
def test_damaged_weights_are_refused(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    refused(copy, "cannot load the model")


def test_a_missing_shard_is_refused(copy):
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(copy, "model-00001-of-00002")


@pytest.mark.parametrize("change", ["missing", "misshapen"])
def test_weights_that_do_not_fit_the_config_are_never_filled_with_random_numbers(copy, change):
    tensors = load_file(copy / "model.safetensors")
    name = "model.layers.0.mlp.gate_proj.weight"
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:3].clone()
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, rf"1 missing or misshapen, first {name}")


def test_a_tokenizer_of_another_model_is_refused(copy):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(copy)
    config.vocab_size = 200
    LlamaForCausalLM(config).save_pretrained(copy)
    refused(copy, "263 tokens, the model 200 rows")


def test_a_broken_chat_template_is_refused(copy):
    (copy / "chat_template.jinja").write_text(CHATML.replace("{% endfor %}", ""))
    with pytest.raises(SetupError, match="the chat template cannot be used"):
        on_cpu(copy)


# Code in the directory

AUTO_MAP = {"AutoConfig": "configuration_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddModel"}


def test_a_model_that_ships_its_own_code_is_refused_without_trust_and_its_code_does_not_run(copy, tmp_path):
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    (copy / "configuration_odd.py").write_text(code)
    (copy / "modeling_odd.py").write_text(code)
    edit(copy / "config.json", model_type="odd", auto_map=AUTO_MAP)
    refused(copy, "ships its own code .*--trust_remote_code")
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_ships_its_own_code_is_refused_without_trust(copy, tmp_path):
    (copy / "tokenization_odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto_map = {"AutoTokenizer": ["tokenization_odd.OddTokenizer", None]}
    edit(copy / "tokenizer_config.json", tokenizer_class="OddTokenizer", auto_map=auto_map)
    refused(copy, "cannot load the model")
    assert not (tmp_path / "ran").exists()


def test_a_known_model_type_with_an_auto_map_loads_the_librarys_own_code(copy, tmp_path):
    (copy / "modeling_odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edit(copy / "config.json", auto_map=AUTO_MAP)
    assert type(on_cpu(copy).module).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()


# Odd states


def test_a_model_without_a_tokenizer_says_so(copy):
    for file in [*copy.glob("tokenizer.*"), *copy.glob("vocab*"), *copy.glob("merges*")]:
        file.unlink()
    refused(copy, r"has no tokenizer \(tokenizer\.json or the like\)")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_names_the_command_that_gets_the_file(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n")
    refused(copy, rf"{re.escape(name)} is a Git LFS pointer .* `git lfs pull` in ")


@pytest.mark.parametrize("share", [0, 1e-6, 0.001, 0.5, 0.9999])
def test_weights_that_are_cut_off_say_so(copy, share):
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: int(share * len(weights))])
    refused(copy, r"model\.safetensors is cut off; get the model again")
