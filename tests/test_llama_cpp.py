"""llama.cpp's engine: what it asks of the server, and what it makes of the answers. The real one runs in
``test_end_to_end.py``."""

import sys
import threading
import time
import types
from pathlib import Path

import pytest

from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.by_prompt import ByPrompt
from cotdistill.errors import SetupError


class FakeServer:
    """xllamacpp's server as far as the engine uses it."""

    def __init__(self, parameters: types.SimpleNamespace) -> None:
        self.parameters = parameters
        self.bodies: list[dict] = []
        self.listening_address = "http://127.0.0.1:9"  # nobody listens: sharing the prefix must not matter
        self.running = self.most = 0
        self._lock = threading.Lock()

    def handle_chat_completions(self, body: dict) -> dict:
        with self._lock:
            self.bodies.append(body)
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.01)
        with self._lock:
            self.running -= 1
        question = body["messages"][-1]["content"]
        if question == "too long":
            return {"error": {"code": 400, "message": "request exceeds the available context size"}}
        if question == "odd":
            return {"choices": []}
        finish = "length" if question == "endless" else "stop"
        return {
            "choices": [{"message": {"content": f"re: {question}"}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type:
    servers: list[FakeServer] = []

    def parameters() -> types.SimpleNamespace:
        return types.SimpleNamespace(model=types.SimpleNamespace(path=""), cpuparams=types.SimpleNamespace(),
                                     cpuparams_batch=types.SimpleNamespace())  # fmt: skip

    def start(given: types.SimpleNamespace) -> FakeServer:
        if given.model.path.endswith("broken.gguf"):
            raise RuntimeError("failed to load model")
        servers.append(FakeServer(given))
        return servers[-1]

    monkeypatch.setitem(sys.modules, "xllamacpp", types.SimpleNamespace(CommonParams=parameters, Server=start))
    return servers


@pytest.fixture
def engine(server, tmp_path: Path):
    from cotdistill.engines import llama_cpp

    return llama_cpp.LlamaCppEngine(tmp_path / "model.gguf", slots=3, context=100)


def requests(*texts: str) -> list[Request]:
    return [Request(text, (Message("system", "s"), Message("user", text)), seed=i) for i, text in enumerate(texts)]


def test_every_request_comes_back_under_its_key_and_at_most_the_slots_are_in_flight(engine, server):
    texts = [f"q{i}" for i in range(20)]
    completions = {c.key: c for c in engine.complete(requests(*texts), Sampling())}
    assert {key: c.text for key, c in completions.items()} == {text: f"re: {text}" for text in texts}
    assert server[0].most <= 3
    assert all(c.finish == "stop" and c.completion_tokens == 3 for c in completions.values())


def test_samples_of_a_question_follow_each_other_in_the_slot_that_holds_its_prompt():
    asked = [Request(f"{q}{i}", (Message("user", q),), seed=i) for q in "abc" for i in range(3)]
    read = []
    order = ByPrompt((read.append(one.key) or one for one in asked), 2)
    first, second = order.next(), order.next()
    assert (first.key, second.key) == ("a0", "b0")
    assert read == ["a0", "a1", "a2", "b0"]  # no further than to another prompt
    assert [order.after(first).key, order.after(asked[1]).key] == ["a1", "a2"]
    assert order.after(asked[2]).key == "c0"  # b is being computed
    assert [order.after(second).key, order.after(asked[4]).key, order.after(asked[5]).key] == ["b1", "b2", "c1"]
    assert [order.after(asked[6]).key, order.after(asked[7]), order.after(asked[8])] == ["c2", None, None]


def test_every_request_is_asked_once_however_many_samples_there_are(engine):
    asked = [Request(f"{q}{i}", (Message("user", q),), seed=i) for q in "abcd" for i in range(5)]
    assert sorted(one.key for one in engine.complete(asked, Sampling())) == sorted(one.key for one in asked)


def test_threads_are_as_many_as_this_process_may_use(server, tmp_path, monkeypatch):
    from cotdistill.engines import llama_cpp

    monkeypatch.setattr(llama_cpp.os, "cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(llama_cpp, "machine", lambda: types.SimpleNamespace(cores=3))
    llama_cpp.LlamaCppEngine(tmp_path / "model.gguf")
    assert server[0].parameters.cpuparams.n_threads == server[0].parameters.cpuparams_batch.n_threads == 3
    monkeypatch.setattr(llama_cpp.os, "cpu_count", lambda: 3)
    llama_cpp.LlamaCppEngine(tmp_path / "model.gguf")
    assert not hasattr(server[1].parameters.cpuparams, "n_threads")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as Ray does, whose workers share a machine
    llama_cpp.LlamaCppEngine(tmp_path / "model.gguf")
    assert server[2].parameters.cpuparams.n_threads == 2


def test_a_request_that_fails_is_an_error_row_and_the_others_are_answered(engine):
    completions = {c.key: c for c in engine.complete(requests("a", "too long", "odd", "endless"), Sampling())}
    assert completions["a"].finish == "stop"
    assert completions["endless"].finish == "length"
    assert completions["too long"].finish == completions["odd"].finish == "error"
    assert "context size" in completions["too long"].error


def test_greedy_is_greedy_and_sampling_has_a_seed_for_each_request(engine, server):
    list(engine.complete(requests("a"), Sampling(max_new_tokens=9)))
    greedy = server[0].bodies[-1]
    assert (greedy["temperature"], greedy["top_k"], greedy["max_tokens"]) == (0.0, 1, 9)
    list(engine.complete(requests("a", "b"), Sampling(do_sample=True, temperature=0.7, seed=5)))
    first, second = sorted(server[0].bodies[-2:], key=lambda body: body["messages"][-1]["content"])
    assert first["temperature"] == second["temperature"] == 0.7
    assert first["seed"] != second["seed"]


def test_nothing_but_what_was_asked_for_shapes_a_sample(engine, server):
    list(engine.complete(requests("a"), Sampling(do_sample=True, temperature=0.7, top_p=0.9)))
    expected = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
    }  # fmt: skip
    assert {name: server[0].bodies[-1][name] for name in expected} == expected


def test_the_listener_has_a_random_key(server, tmp_path):
    from cotdistill.engines.llama_cpp import LlamaCppEngine

    for _ in range(2):
        LlamaCppEngine(tmp_path / "model.gguf")
    keys = [one.parameters.api_keys[0] for one in server]
    assert keys[0] != keys[1]
    assert min(map(len, keys)) >= 32


def test_seconds_add_up_to_the_time_that_passed(engine):
    start = time.monotonic()
    completions = list(engine.complete(requests(*"abcdefgh"), Sampling()))
    assert sum(c.seconds for c in completions) <= time.monotonic() - start


def test_a_file_that_does_not_load_is_one_sentence(server, tmp_path):
    from cotdistill.engines.llama_cpp import LlamaCppEngine

    with pytest.raises(SetupError, match=r"broken\.gguf.*failed to load"):
        LlamaCppEngine(tmp_path / "broken.gguf")


def test_blanks_around_a_question_are_left_out_as_in_every_engine(engine, server):
    list(engine.complete(requests("  a\n"), Sampling()))
    assert server[0].bodies[-1]["messages"][-1]["content"] == "a"
