"""The vLLM engine against a stand-in with vLLM's signatures: what it asks, and what it makes of the answers."""

import json
import sys
import types
from pathlib import Path

import msgspec
import pytest

from conftest import make_model, on_cpu
from cotdistill.card import AdapterCard
from cotdistill.engines import Message, Request, Sampling, vllm_engine
from cotdistill.engines.opening import open_engine
from cotdistill.errors import SetupError
from cotdistill.identity import model_hash


class Invalid(Exception):
    """``vllm.exceptions.VLLMValidationError``, which was a ``ValueError`` before 0.27."""


class EngineDeadError(Exception):
    """``vllm.v1.engine.exceptions.EngineDeadError``."""


class Engine:
    """``vllm.LLMEngine`` as far as it is used; each step gives every request a token of ``answer(prompt ids)``."""

    engines: list["Engine"] = []  # noqa: RUF012

    def __init__(self, arguments):
        self.arguments, self.running, self.added, self.aborted, self.most = arguments, {}, [], [], 0
        self.engine_core = types.SimpleNamespace(shutdown=lambda: setattr(self, "down", True))
        self.model_config = types.SimpleNamespace(dtype="torch.bfloat16")
        self.down, self.answer, self.also_stops = False, lambda prompt: prompt[-3:], []

    @classmethod
    def from_engine_args(cls, engine_args):
        if "broken" in engine_args.model:
            raise RuntimeError("no CUDA GPUs are available")
        if getattr(engine_args, "quantization", None):
            raise ValueError("Unknown quantization method: bitsandbytes.")
        cls.engines.append(cls(engine_args))
        return cls.engines[-1]

    def add_request(self, request_id, prompt, params, arrival_time=None, lora_request=None, tokenization_kwargs=None,
                    trace_headers=None, priority=0, prompt_text=None):
        if len(prompt["prompt_token_ids"]) > 200:
            raise Invalid("The decoder prompt is longer than the maximum model length of 200.")
        self.added.append((request_id, prompt["prompt_token_ids"], params, lora_request))
        self.running[request_id] = (self.answer(prompt["prompt_token_ids"]), params, [])
        self.most = max(self.most, len(self.running))
        return request_id

    def step(self):
        outputs = []
        for key, (answer, params, done) in list(self.running.items())[: self.arguments.max_num_seqs]:
            done.append(answer[len(done)])
            stop = done[-1] in [*params.stop_token_ids, *self.also_stops]
            if stop or len(done) in (params.max_tokens, len(answer)):
                del self.running[key]
                one = types.SimpleNamespace(token_ids=done, finish_reason="stop" if stop else "length")
                outputs.append(types.SimpleNamespace(request_id=key, finished=True, outputs=[one]))
        return outputs

    def abort_request(self, request_ids):
        self.aborted += request_ids


@pytest.fixture
def vllm(monkeypatch):
    def made(**fields):
        return types.SimpleNamespace(**fields)

    Engine.engines = []
    monkeypatch.setattr(vllm_engine, "TOGETHER", 2)
    modules = {
        "vllm": {"EngineArgs": made, "LLMEngine": Engine, "SamplingParams": made},
        "vllm.lora.request": {"LoRARequest": lambda lora_name, lora_int_id, lora_path: (lora_name, lora_int_id, lora_path)},
        "vllm.sampling_params": {"RequestOutputKind": types.SimpleNamespace(FINAL_ONLY=2)},
        "vllm.lora": {},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return Engine.engines


def requests(*texts):
    return [Request(text, (Message("system", "s"), Message("user", text)), seed=i) for i, text in enumerate(texts)]


@pytest.fixture
def engine(vllm, tiny):
    return open_engine(str(tiny), engine="vllm", batch_size=1)


def test_vllm_is_given_the_token_ids_that_every_engine_computes(engine, vllm, tiny):
    model = on_cpu(tiny)
    asked = requests("2 + 3?", "<|im_end|>")
    found = {one.key: one for one in engine.complete(asked, Sampling(max_new_tokens=2))}
    for request in asked:
        ids = model.template.prompt_ids(request.messages)
        assert next(prompt for key, prompt, *_ in vllm[0].added if key == request.key) == ids
        one = found[request.key]
        assert (one.text, one.finish) == (model.tokenizer.decode(ids[-3:-1]), "length")
        assert (one.prompt_tokens, one.completion_tokens) == (len(ids), 2)
    params = vllm[0].added[0][2]
    assert (params.temperature, params.seed, params.top_p) == (0.0, None, 1.0)


def test_answers_stream_and_no_more_are_read_than_vllm_can_use(engine, vllm):
    read = []
    asked = (read.append(one.key) or one for one in requests(*(f"q{i}" for i in range(20))))
    answers = engine.complete(asked, Sampling())
    next(answers)
    assert len(read) == 4
    assert len({one.key for one in answers}) == 19
    assert vllm[0].most == 4


def test_the_end_of_the_turn_is_cut_off_and_counted(engine, vllm, tiny):
    turn = on_cpu(tiny).template.end_of_turn
    vllm[0].answer = lambda prompt: [65, turn]
    [one] = engine.complete(requests("a"), Sampling())
    assert (one.finish, one.completion_tokens) == ("stop", 2)
    assert "im_end" not in one.text
    vllm[0].answer, vllm[0].also_stops = lambda prompt: [65, 66], [66]  # by the model's generation_config.json
    [one] = engine.complete(requests("a"), Sampling())
    assert (one.text, one.finish) == (on_cpu(tiny).tokenizer.decode([65]), "stop")


def test_a_request_that_vllm_refuses_is_an_error_row_and_the_others_are_answered(engine):
    found = {one.key: one for one in engine.complete(requests("a", "x" * 300, "b"), Sampling())}
    assert found["x" * 300].finish == "error"
    assert "maximum model length" in found["x" * 300].error
    assert found["a"].finish == found["b"].finish == "length"


def test_sampling_has_a_seed_for_each_request(engine, vllm):
    list(engine.complete(requests("a", "b"), Sampling(do_sample=True, temperature=0.7, top_p=0.9, seed=5)))
    first, second = (params for _, _, params, _ in vllm[0].added)
    assert (first.temperature, first.top_p) == (0.7, 0.9)
    assert first.seed != second.seed


def test_leaving_early_takes_the_requests_out_of_vllm(engine, vllm):
    answers = engine.complete(requests(*"abcdef"), Sampling())
    next(answers)
    answers.close()
    assert vllm[0].aborted
    engine.close()
    engine.close()
    assert vllm[0].down


@pytest.mark.parametrize(("gpus", "used"), [(0, None), (1, None), (2, 2), (3, 2), (8, 4)])
def test_the_model_is_divided_among_the_gpus_that_it_can_be_divided_among(vllm, tiny, monkeypatch, gpus, used):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    open_engine(str(tiny), engine="vllm", batch_size=300)
    arguments = vllm[0].arguments
    assert getattr(arguments, "tensor_parallel_size", None) == used
    assert (arguments.max_num_seqs, arguments.max_model_len) == (300, -1)


def test_a_vllm_that_died_before_it_is_asked_ends_the_command(engine, monkeypatch):
    def dead(*_, **__):
        raise EngineDeadError("EngineCore encountered an issue")

    monkeypatch.setattr(Engine, "add_request", dead)
    with pytest.raises(SetupError, match="vLLM ended"):
        list(engine.complete(requests("a"), Sampling()))


def test_a_vllm_that_dies_is_one_sentence(engine, vllm, monkeypatch):
    monkeypatch.setattr(Engine, "step", lambda self: 1 / 0)
    with pytest.raises(SetupError, match="vLLM ended"):
        list(engine.complete(requests("a"), Sampling()))


def test_an_adapter_is_applied_to_every_request_and_must_be_the_models_own(vllm, tiny, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 12}))
    card = AdapterCard("Add.", on_cpu(tiny).template.hash, model_hash(tiny), "tiny")
    (adapter / "cotdistill.json").write_bytes(msgspec.json.encode(card))
    engine = open_engine(str(tiny), engine="vllm", adapter=adapter)
    list(engine.complete(requests("a"), Sampling()))
    assert vllm[0].added[0][3] == ("student", 1, str(adapter.resolve()))
    assert (vllm[0].arguments.enable_lora, vllm[0].arguments.max_lora_rank) == (True, 16)
    with pytest.raises(SetupError, match="was trained on tiny"):
        open_engine(str(make_model(tmp_path / "other", seed=1)), engine="vllm", adapter=adapter)


def test_what_vllm_does_not_run_is_refused(vllm, tiny, tmp_path):
    (tmp_path / "m.gguf").touch()
    with pytest.raises(SetupError, match="GGUF file, which vLLM does not run"):
        open_engine(str(tmp_path / "m.gguf"), engine="vllm")
    with pytest.raises(SetupError, match="pip install vllm-bnb-plugin"):
        open_engine(str(tiny), engine="vllm", load_in_4bit=True)


def test_without_vllm_or_a_gpu_one_sentence_says_so(vllm, tiny, tmp_path, monkeypatch):
    with pytest.raises(SetupError, match="no CUDA GPUs"):
        open_engine(str(make_model(tmp_path / "broken")), engine="vllm")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SetupError, match=r"pip install vllm"):
        open_engine(str(Path(tiny)), engine="vllm")
