"""What one run asked is not computed again for another, and nothing that is wrong with the cache stops a run."""

import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest

from cotdistill.engines import Completion, Message, Request, Sampling
from cotdistill.engines.cached import CachedEngine
from cotdistill.engines.completion_cache import CompletionCache
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.journal import read_rows
from cotdistill.question import Question
from cotdistill.settings.generate import Generate
from cotdistill.stages.generate import run_generate
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace

GREEDY = Sampling(max_new_tokens=9)
HOT = Sampling(9, do_sample=True, temperature=0.5)


def answer_of(size: int = 10) -> Completion:
    return Completion("k", "x" * size, "stop", 3, 4, 0.5)


def asked(engine: CachedEngine, sampling: Sampling, *keys: str, text: str = "1 + 1?") -> list[Completion]:
    requests = [Request(key, (Message("user", text),), seed=int(key)) for key in keys]
    return list(engine.complete(iter(requests), sampling))


def test_only_a_request_with_the_same_model_text_and_seed_is_found(tmp_path):
    inner = ScriptedEngine(lambda text: "Final Answer: 2")
    cache = CompletionCache(tmp_path / "c.sqlite")
    engine = CachedEngine(inner, cache, "model")
    first = asked(engine, GREEDY, "0")
    assert asked(engine, GREEDY, "7") == [msgspec.structs.replace(first[0], key="7", seconds=0.0)]  # greedy has no seed
    assert len(inner.requests) == 1
    asked(engine, HOT, "0", "1")
    assert len(inner.requests) == 3
    assert len(asked(engine, HOT, "1", "0")) == 2
    assert len(inner.requests) == 3
    for other, given in [(CachedEngine(inner, cache, "model two"), {}), (engine, {"text": "2 + 2?"})]:
        before = len(inner.requests)
        asked(other, GREEDY, "0", **given)
        assert len(inner.requests) == before + 1


@pytest.mark.parametrize(
    "change",
    [{"top_p": 0.9}, {"temperature": 0.6}, {"seed": 1}, {"max_new_tokens": 8}, {"do_sample": False}, {"thinking": True}],
    ids=str,
)
def test_every_setting_of_the_sampling_tells_requests_apart(tmp_path, change):
    inner = ScriptedEngine(lambda text: "2")
    engine = CachedEngine(inner, CompletionCache(tmp_path / "c.sqlite"), "m")
    for sampling in (HOT, msgspec.structs.replace(HOT, **change), HOT):
        asked(engine, sampling, "0")
    assert len(inner.requests) == 2


@pytest.mark.parametrize(
    ("change", "requests"),
    [({"engine": "transformers 5.1"}, 1), ({"engine": "llama.cpp 1"}, 2), ({"dtype": "float32, 4-bit"}, 2)],
    ids=str,
)
def test_what_runs_the_model_and_its_number_format_tell_requests_apart_and_a_version_does_not(tmp_path, change, requests):
    inner, cache = ScriptedEngine(lambda text: "2"), CompletionCache(tmp_path / "c.sqlite")
    for said in ({}, change):
        inner.describe = lambda said=said: {"engine": "transformers 5.0", "dtype": "float32", **said}
        asked(CachedEngine(inner, cache, "m"), HOT, "0")
    assert len(inner.requests) == requests


def test_failures_are_asked_again_and_hits_among_misses_all_come(tmp_path):
    def fails(text: str) -> str:
        raise RuntimeError("down")

    cache = CompletionCache(tmp_path / "c.sqlite")
    assert asked(CachedEngine(ScriptedEngine(fails), cache, "m"), GREEDY, "0")[0].finish == "error"
    engine = CachedEngine(ScriptedEngine(lambda text: text), cache, "m")
    assert asked(engine, GREEDY, "0")[0].finish == "stop"
    requests = [Request(str(i), (Message("user", f"n{i % 40}"),)) for i in range(100)]
    for _ in range(2):
        assert {c.key: c.text for c in engine.complete(iter(requests), GREEDY)} == {
            str(i): f"n{i % 40}" for i in range(100)
        }


def test_a_damaged_entry_or_file_is_no_cache(tmp_path, caplog):
    path = tmp_path / "c.sqlite"
    cache = CompletionCache(path)
    cache.put(b"k", answer_of())
    cache.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET value = replace(value, 'xxx', 'yyy')")
    cache = CompletionCache(path)
    assert cache.get(b"k") is None
    cache.put(b"k", answer_of())
    assert cache.get(b"k") == answer_of()
    cache.close()
    path.write_bytes(b"this is no database, but it is long enough to be taken for one" * 20)
    cache = CompletionCache(path)
    cache.put(b"k", answer_of())
    assert cache.get(b"k") is None
    assert "going on without the trace cache" in caplog.text


def test_what_was_used_last_stays_when_the_cache_is_full(tmp_path):
    cache = CompletionCache(tmp_path / "c.sqlite", max_bytes=20_000)
    for i in range(100):
        cache.put(f"k{i}".encode(), answer_of(1000))
        cache.get(b"k0")
    there = [i for i in range(100) if cache.get(f"k{i}".encode())]
    assert there[0] == 0
    assert there[1:] == list(range(there[1], 100))
    assert 10 < len(there) < 20


def test_several_may_write_at_once(tmp_path):
    path = tmp_path / "c.sqlite"

    def work(number: int) -> None:
        cache = CompletionCache(path)
        for i in range(30):
            cache.put(f"{number}/{i}".encode(), answer_of())
        cache.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = CompletionCache(path)
    assert all(cache.get(f"{number}/{i}".encode()) for number in range(4) for i in range(30))


def test_a_new_file_that_another_run_is_writing_is_waited_for(tmp_path, caplog):
    path = tmp_path / "c.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.1, other.execute, ["COMMIT"])
    end.start()
    cache = CompletionCache(path)
    end.join()
    cache.put(b"k", answer_of())
    assert cache.get(b"k") == answer_of()
    assert not caplog.records


def test_a_second_run_asks_the_model_nothing_and_writes_the_same_traces(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("COTDISTILL_CACHE", str(tmp_path / "cache"))
    questions = [Question(f"q{i}", f"Which number is it, {i}?", "5") for i in range(4)]
    settings = Generate(num_samples=3, enough=2, sampling=Sampling(20, do_sample=True), cache=True)
    rows, asked_of_model = [], []
    for name, model in (("one", "h"), ("two", "h"), ("server", "")):
        engine = ScriptedEngine(lambda text: "It is five, as fingers are.\nFinal Answer: 5")
        run_generate(questions, tmp_path / f"{name}.jsonl", Manifest.open(tmp_path / f"{name}.json"), settings=settings,
                     shots=(), model={"name": "m", "hash": model}, open_teacher=lambda e=engine: e, quiet=True)
        rows.append(sorted(read_rows(tmp_path / f"{name}.jsonl", Trace), key=lambda row: row.id))
        asked_of_model.append(len(engine.requests))
    assert rows[0] == rows[1] == rows[2]
    assert asked_of_model == [12, 0, 12]
