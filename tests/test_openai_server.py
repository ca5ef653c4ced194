"""The engine for OpenAI-compatible servers, against a server that misbehaves."""

import asyncio
import gc
import json
import logging
import os
import pickle
import signal
import statistics
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import msgspec
import pytest
import yaml

from cotdistill.asking.collecting import collect
from cotdistill.asking.drawing import Drawing, Step
from cotdistill.commands.options import server_of
from cotdistill.engines import Completion, Message, Request, Sampling
from cotdistill.engines.api_key import ApiKey, key_for
from cotdistill.engines.dialect import Dialect
from cotdistill.engines.endpoint import Endpoint, Reception
from cotdistill.engines.openai_server import OpenAIServerEngine
from cotdistill.engines.server import Server
from cotdistill.engines.server_reply import LONGEST_WAIT, Again, retry_after
from cotdistill.errors import DataError, SetupError, UsageError
from cotdistill.evaluation import Entrant, evaluate_all
from cotdistill.prompt import Shot, messages_for
from cotdistill.question import Question
from cotdistill.recipe import decode_recipe, dump_recipe
from cotdistill.stages.models import identify
from cotdistill.trace import Trace
from server_double import ServerDouble, answers, completion, drips, drops, echoes, fails, hangs, says

SRC = str(Path(__file__).resolve().parent.parent / "src")
KEY = "sk-test-1f6a0c55b7d94e0"
FAST = {"pause": 0.01, "longest_pause": 0.05}


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def engine_on(*servers: ServerDouble, model: str = "m", **settings: object) -> OpenAIServerEngine:
    return OpenAIServerEngine(model, Server(tuple(server.url for server in servers), **settings), **FAST)


def requests(count: int) -> list[Request]:
    return [Request(f"q{i}", (Message("system", "Add."), Message("user", f"{i} + {i}?"))) for i in range(count)]


def ask(engine: OpenAIServerEngine, count: int = 1) -> list[Completion]:
    try:
        return sorted(engine.complete(requests(count), Sampling()), key=lambda completion: completion.key)
    finally:
        engine.close()


def traces_by(engine: OpenAIServerEngine, questions: list[Question], path: Path) -> None:
    drawing = Drawing(questions, [Step("", 0, 1, Sampling())], lambda question, _: messages_for(question, "Add."))
    collect(drawing, questions, path, names=["m"], open_teacher=lambda _: engine)


def test_what_a_server_answers_comes_back_byte_for_byte_with_its_tokens():
    text = "  0.15 × 240\u2028= 36.\n\n#### 36 "
    with ServerDouble([answers(text)]) as server:
        engine = engine_on(server)
        (one,) = ask(engine)
    assert (one.key, one.text, one.finish, one.prompt_tokens, one.completion_tokens) == ("q0", text, "stop", 7, 3)
    assert one.thinking is None
    assert engine.describe()["model"] == "m"
    assert engine.describe()["base_url"] == server.url


def test_collecting_garbage_leaves_what_was_there_alone_while_replies_wait_and_no_longer():
    before = gc.get_freeze_count()
    with ServerDouble([answers("4")]) as server:
        engine = engine_on(server)
        for _ in engine.complete(requests(3), Sampling()):
            assert gc.get_freeze_count() > before + 1000
        engine.close()
    assert gc.get_freeze_count() <= before


def test_first_requests_do_not_go_out_all_at_once(monkeypatch):
    monkeypatch.setattr("cotdistill.engines.endpoint.PACE", 0.1)
    all_here = threading.Barrier(8)

    def together(handler, body):
        all_here.wait(timeout=20)
        answers("4")(handler, body)

    with ServerDouble([together] * 8) as server:
        engine = engine_on(server, concurrency=8)
        start = time.monotonic()
        ask(engine, 8)
    assert server.most_in_flight == 8
    assert server.times[-1] - start >= 0.7  # seven times PACE: a slow machine is later, never earlier


@pytest.mark.parametrize(
    ("said", "meant"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "length"), (None, "length"), ("tool_calls", "length")],
)
def test_only_an_answer_that_the_model_ended_itself_counts_as_whole(said, meant):
    with ServerDouble([answers("Final Answer: 4", finish=said)]) as server:
        assert ask(engine_on(server))[0].finish == meant


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_is_kept_apart_from_the_answer_and_reaches_the_trace(field, tmp_path):
    with ServerDouble([answers("Final Answer: 0", **{field: "Hm, 0."})]) as server:
        engine = engine_on(server)
        traces_by(engine, [Question("q", "0 + 0?")], tmp_path / "t.jsonl")
    (row,) = map(json.loads, (tmp_path / "t.jsonl").read_bytes().splitlines())
    assert (row["reasoning"], row["thinking"], row["final_answer"]) == ("Final Answer: 0", "Hm, 0.", "0")


@pytest.mark.parametrize("opening", ["<think>\n", ""])
def test_a_thought_that_the_server_left_in_the_answer_is_taken_out(opening):
    with ServerDouble([answers(f"{opening}Hm, 0.\n</think>\n\nFinal Answer: 0")]) as server:
        [answer] = ask(engine_on(server))
    assert (answer.text, answer.thinking) == ("Final Answer: 0", "Hm, 0.")


@pytest.mark.parametrize(
    "misbehaviour",
    [
        fails(429), fails(500), fails(503), drops, says(b"{}"), says(b'{"choices": []}'), says(b"<html>oops"),
        says(b'{"choices": [{"message": {"content": 42}}]}'), says(b"\xff\xfe"), says(b"[" * 100_000), says(b""),
        answers("half", finish="error"),
        answers("half", finish="abort"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_reply_that_is_none_is_asked_for_again(misbehaviour):
    with ServerDouble([misbehaviour, misbehaviour]) as server:
        (one,) = ask(engine_on(server, retries=2))
        assert (one.text, one.finish) == ("0 + 0?", "stop")
        assert len(server.bodies) == 3


@pytest.mark.parametrize("misbehaviour", [hangs, drips], ids=["hang", "slow drip"])
def test_no_request_takes_longer_than_its_timeout(misbehaviour):
    with ServerDouble([misbehaviour] * 2) as server:
        start = time.monotonic()
        (one,) = ask(engine_on(server, retries=1, timeout=0.3))
        assert time.monotonic() - start < 5
    assert one.finish == "error"
    assert "no whole answer within 0.3 s" in one.error


def test_retries_are_bounded_and_a_row_that_fails_is_a_row():
    def one_kills_it(body):
        return fails(500, "boom") if body["messages"][-1]["content"] == "1 + 1?" else None

    with ServerDouble(by_body=one_kills_it) as server:
        rows = ask(engine_on(server, retries=3), 3)
        assert [row.finish for row in rows] == ["stop", "error", "stop"]
        assert server.asked().count("1 + 1?") == 4
    assert "status 500: boom" in rows[1].error


def test_a_request_that_is_refused_is_not_repeated_and_costs_only_itself():
    with ServerDouble([fails(400, "context length exceeded")]) as server:
        rows = ask(engine_on(server, concurrency=1), 2)
        assert [row.finish for row in rows] == ["error", "stop"]
        assert "context length exceeded" in rows[0].error
        assert len(server.bodies) == 2


def test_a_server_that_asks_for_patience_gets_it_from_all_requests():
    with ServerDouble([fails(429, **{"Retry-After": "1"})]) as server:
        assert all(row.finish == "stop" for row in ask(engine_on(server, concurrency=1), 3))
        assert server.times[1] - server.times[0] >= 0.99


def test_retry_after_is_read_in_seconds_and_as_a_date_and_has_a_cap():
    now = datetime(2025, 1, 1, tzinfo=UTC)
    soon, past = (format_datetime(now + timedelta(seconds=s), usegmt=True) for s in (30, -30))
    read = {text: retry_after({"retry-after": text}, lambda: now) for text in ("7", soon, past, "1e9", "nan", "-5", "x")}
    assert read == {"7": 7, soon: 30, past: 0, "1e9": LONGEST_WAIT, "nan": None, "-5": 0, "x": None}
    assert retry_after({}) is None


def test_pauses_between_tries_double_up_to_the_longest_and_are_drawn_at_random(monkeypatch):
    drawn: list[float] = []
    monkeypatch.setattr("random.uniform", lambda low, high: drawn.append(high) or high)
    with ServerDouble([fails(500)] * 5) as server:
        engine = OpenAIServerEngine("m", Server(server.url), pause=0.05, longest_pause=0.2)
        assert ask(engine)[0].finish == "stop"
        gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert drawn == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert all(gap >= high for gap, high in zip(gaps, drawn, strict=True))


def test_at_most_n_requests_are_in_flight_at_the_server():
    with ServerDouble(by_body=lambda body: echoes(0.05)) as server:
        assert len(ask(engine_on(server, concurrency=5), 30)) == 30
        assert server.most_in_flight == 5


def turned_away(monkeypatch: pytest.MonkeyPatch, room: int, concurrency: int) -> tuple[int, list[float]]:
    """How often a server with so much ``room`` refused one of 400 requests, and the limit whenever it answered one."""
    limits: list[float] = []
    in_flight = refused = 0

    async def send(endpoint: Endpoint, method: str, *_: object, **__: object) -> Reception:
        nonlocal in_flight, refused
        if method == "GET":
            return Reception(404, httpx.Headers(), b"")
        in_flight += 1
        fits = in_flight <= room
        refused += not fits
        await asyncio.sleep(0.01 if fits else 0.001)
        in_flight -= 1
        if fits:
            limits.append(endpoint.limit)
        return Reception(200 if fits else 429, httpx.Headers(), json.dumps(completion("4")).encode())

    monkeypatch.setattr(Endpoint, "send", send)
    engine = OpenAIServerEngine("m", Server("http://127.0.0.1:1", concurrency=concurrency, retries=50), **FAST)
    assert all(row.finish == "stop" for row in ask(engine, 400))
    return refused, limits


def test_a_server_that_has_no_room_for_so_many_is_asked_for_as_many_as_it_takes(monkeypatch):
    refused, limits = turned_away(monkeypatch, 8, 64)
    assert 5 < statistics.mean(limits[100:]) < 9
    assert refused < 160  # 56 + 24 + 8 until it is known how many are too many, then one in each 40 or so


@pytest.mark.parametrize("failure", [Again("429", busy=True), Again("late", busy=True), Again("gone", away=True)])
def test_the_limit_is_halved_once_for_a_flight_and_grows_by_one_with_each_full_round(failure):
    async def limits() -> list[float]:
        endpoint, now = Endpoint("http://127.0.0.1:1", {}, 16), asyncio.get_running_loop().time()
        seen = []
        for started in (now, now - 1, now + 60):
            endpoint.failed(failure, started, pause=0, longest_pause=0)
            seen.append(endpoint.limit)
        for answers_ in (4, 5, 1000):
            for _ in range(answers_):
                endpoint.answered()
            seen.append(endpoint.limit)
        await endpoint.close()
        return seen

    assert asyncio.run(limits()) == pytest.approx([8, 8, 4, 5, 6, 16], abs=0.2)


def test_an_endpoint_rests_when_it_asks_to_is_away_or_has_no_room_for_one():
    async def rest_after(failure: Again, concurrency: int) -> float:
        endpoint = Endpoint("http://127.0.0.1:1", {}, concurrency)
        endpoint.failed(failure, asyncio.get_running_loop().time(), pause=5, longest_pause=60)
        await endpoint.close()
        return endpoint.rest()

    cases = [
        (Again("429", busy=True), 16, 0), (Again("429", busy=True), 1, 5), (Again("429", busy=True, wait=9), 16, 9),
        (Again("gone", away=True), 16, 5), (Again("status 500"), 1, 0),
    ]  # fmt: skip
    for failure, concurrency, seconds in cases:
        assert max(0, asyncio.run(rest_after(failure, concurrency))) == pytest.approx(seconds, abs=0.2)


def test_questions_are_taken_as_they_are_needed():
    taken: list[str] = []

    def endless():
        for request in requests(1000):
            taken.append(request.key)
            yield request

    with ServerDouble() as server:
        engine = engine_on(server, concurrency=3)
        answered = engine.complete(endless(), Sampling())
        for count in range(1, 20):
            next(answered)
            assert len(taken) <= count + 2 * 3
        engine.close()


def test_several_servers_share_the_work_and_one_that_is_gone_costs_no_row():
    with ServerDouble(by_body=lambda body: echoes(0.02)) as one, ServerDouble(by_body=lambda body: echoes(0.02)) as two:
        engine = OpenAIServerEngine("m", Server((one.url, two.url), concurrency=2), pause=0.1)
        assert all(row.finish == "stop" for row in ask(engine, 20))
        assert min(len(one.bodies), len(two.bodies)) >= 5
        assert max(one.most_in_flight, two.most_in_flight) == 2
        two.__exit__()
        assert all(row.finish == "stop" for row in ask(engine, 20))
        two.thread.join()


def test_completions_come_as_they_finish():
    with ServerDouble([answers("slow", after=1), answers("quick")]) as server:
        engine = engine_on(server, concurrency=2)
        assert next(engine.complete(requests(2), Sampling())).text == "quick"
        engine.close()


@pytest.mark.parametrize("leave", ["close the iterator", "close the engine"])
def test_leaving_early_drops_what_is_in_flight_and_leaves_no_thread(leave):
    with ServerDouble([answers("quick"), *[hangs] * 9]) as server:
        engine = engine_on(server, concurrency=3)
        answered = engine.complete(requests(10), Sampling())
        assert next(answered).text == "quick"
        start = time.monotonic()
        answered.close() if leave == "close the iterator" else engine.close()
        assert time.monotonic() - start < 10
        assert not [thread for thread in threading.enumerate() if thread.name == "cotdistill-http"]
    engine.close()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses the API key"), (402, "no credit"), (403, "forbids"), (404, "knows no such model"),
        (307, "redirects elsewhere"),
    ],
)  # fmt: skip
def test_what_no_retry_can_mend_stops_at_once_in_one_sentence(status, said):
    with ServerDouble(by_body=lambda body: fails(status)) as server:
        with pytest.raises(SetupError, match=said) as caught:
            ask(engine_on(server, concurrency=1), 5)
        assert len(server.bodies) <= 2
    assert "\n" not in str(caught.value)


def test_a_server_that_only_fails_is_left_after_some_requests_and_what_was_done_is_kept(tmp_path):
    questions = [Question(f"q{i}", f"{i} + {i}?") for i in range(20)]
    path = tmp_path / "t.jsonl"
    with ServerDouble([*[echoes()] * 5, *[fails(500, "down")] * 200]) as server:
        engine = engine_on(server, concurrency=1, retries=1, max_failures=4)
        with pytest.raises(SetupError, match=r"4 failed requests in a row.*status 500: down.*goes on"):
            traces_by(engine, questions, path)
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert [row["finish"] for row in rows] == ["stop"] * 5 + ["error"] * 4
        server.script = iter(())
        done = len(server.bodies)
        traces_by(engine, questions, path)
        assert len(server.bodies) - done == 15
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert sorted(row["question_id"] for row in rows) == sorted(question.id for question in questions)
    assert {row["finish"] for row in rows} == {"stop"}


def test_a_model_that_the_server_does_not_list_is_an_error_before_any_question():
    with ServerDouble(models=["qwen3-32b", "llama"]) as server:
        with pytest.raises(SetupError, match="has no model 'qwen3'; it has llama, qwen3-32b"):
            engine_on(server, model="qwen3")
        assert engine_on(server, model="llama")
        assert server.bodies == []


def test_a_server_that_answers_as_another_model_is_an_error():
    with (
        ServerDouble([answers("4", model="other-7b")]) as server,
        pytest.raises(SetupError, match="answers as 'other-7b'"),
    ):
        ask(engine_on(server, model="qwen3"))
    with (
        ServerDouble([answers("4", model="m-0806"), answers("4", model="m-1120")]) as server,
        pytest.raises(SetupError, match="answers as 'm-1120', before as 'm-0806'"),
    ):
        ask(engine_on(server, concurrency=1), 2)


def test_an_alias_that_the_server_lists_may_go_by_another_name():
    with ServerDouble([answers("4", model="other-7b")], models=["best:latest"]) as server:
        engine = engine_on(server, model="best")
        assert ask(engine)[0].text == "4"
        assert engine.describe()["model"] == "other-7b"


def test_nobody_at_the_address_is_one_sentence():
    with ServerDouble() as server:
        pass
    with pytest.raises(SetupError, match=r"cannot be reached.*is the server running"):
        engine_on(server)


def test_a_reply_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("cotdistill.engines.endpoint.LARGEST_REPLY", 1 << 20)
    with ServerDouble([says(b'"' + b"x" * (2 << 20))]) as server:
        (one,) = ask(engine_on(server))
    assert one.finish == "error"
    assert "longer than" in one.error


def test_messages_are_those_that_every_engine_gets_and_parameters_those_that_every_server_takes():
    messages = messages_for(Question("q", "1 + 1?"), "Add.", [Shot("0 + 0?", "Final Answer: 0")])
    with ServerDouble() as server:
        engine = engine_on(server)
        list(engine.complete([Request("q#3", messages, seed=3)], Sampling(max_new_tokens=9)))
        list(engine.complete([Request("q#3", messages, seed=3)], Sampling(9, True, 0.7, 0.9, seed=5)))
    greedy, sampled = server.bodies
    assert greedy["messages"] == [{"role": message.role, "content": message.content} for message in messages]
    assert greedy["messages"] == msgspec.to_builtins(list(messages))  # what llama.cpp is handed
    assert [message["role"] for message in greedy["messages"]] == ["system", "user", "assistant", "user"]
    assert greedy == {"model": "m", "messages": greedy["messages"], "max_tokens": 9, "temperature": 0, "top_p": 1, "stream": False}
    assert sampled == {**greedy, "temperature": 0.7, "top_p": 0.9, "seed": 5_000_018}


def test_a_server_that_knows_the_limit_by_its_new_name_is_told_it():
    def only_new(body):
        return fails(400, "use max_completion_tokens (unsupported_parameter)") if "max_tokens" in body else None

    with ServerDouble(by_body=only_new) as server:
        assert all(row.finish == "stop" for row in ask(engine_on(server, concurrency=1), 3))
        assert ["max_tokens" in body for body in server.bodies] == [True, False, False, False]


EXTRA = {"chat_template_kwargs": {"enable_thinking": True}, "top_k": 20}


def test_what_the_user_adds_is_in_every_request_beside_what_we_send():
    with ServerDouble() as server:
        ask(engine_on(server), 2)
        plain = {json.dumps(body, sort_keys=True) for body in server.bodies}
        ask(engine_on(server, extra_body=EXTRA), 2)
        assert [{name: body.pop(name) for name in EXTRA} for body in server.bodies[2:]] == [EXTRA] * 2
        assert {json.dumps(body, sort_keys=True) for body in server.bodies[2:]} == plain


def test_a_server_that_does_not_take_what_the_user_adds_says_so_itself():
    def strict(body):
        return fails(400, "Unknown parameter: 'top_k'.") if "top_k" in body else None

    with ServerDouble(by_body=strict) as server:
        with pytest.raises(SetupError, match=r"2 failed requests in a row.*Unknown parameter: 'top_k'"):
            ask(engine_on(server, extra_body=EXTRA, concurrency=1, max_failures=2), 5)
        assert all("top_k" in body for body in server.bodies)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_setting_that_the_model_does_not_take_is_left_out_and_said_once(caplog, concurrency):
    def thinks(body):
        if "max_tokens" in body:
            return fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return fails(400, "Unsupported value: 'temperature' does not support 0.0 with this model.")
        return None

    with caplog.at_level(logging.WARNING), ServerDouble(by_body=thinks) as server:
        assert all(row.finish == "stop" for row in ask(engine_on(server, concurrency=concurrency), 5))
        assert "temperature" not in server.bodies[-1]
        assert "top_p" in server.bodies[-1]
    assert [record.getMessage() for record in caplog.records].count(
        "m takes no temperature: it answers as its server has it"
    ) == 1


@pytest.mark.parametrize(
    ("message", "dialect"),
    [
        ("`temperature` and `top_p` cannot both be specified for this model.", Dialect(without=frozenset({"top_p"}))),
        ("Unsupported parameter: 'seed'", Dialect(without=frozenset({"seed"}))),
        ("Unsupported value: \"temperature\" does not support 0.0", Dialect(without=frozenset({"temperature"}))),
        ("maximum context length is 8192 tokens; 'temperature' is fine", Dialect()),
        ("This text is not supported: 'The temperature fell by 5 degrees'", Dialect()),
        ("ByteDance-Seed/Seed-OSS-36B does not support system messages", Dialect()),
        ("no", Dialect()),
    ],
)
def test_what_a_refusal_is_about_decides(message, dialect):
    for body in ({"error": {"message": message}}, {"error": message}, {"detail": message}):
        assert Dialect().after(json.dumps(body).encode()) == dialect
    assert Dialect().after(message.encode()) == dialect


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b'{"error": {"message": "\xff"}}', b""])
def test_a_refusal_that_says_nothing_changes_nothing(body):
    assert Dialect().after(body) == Dialect()


def test_loopback_is_reached_past_the_proxies_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with ServerDouble() as server:
        assert ask(engine_on(server))[0].finish == "stop"


# The key


def test_a_key_has_no_readable_form(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    key = ApiKey.of_file(tmp_path / "key")
    assert key.header() == f"Bearer {KEY}"
    shown = f"{key} {key!r} {key!s} {[key]} {vars(OpenAIServerEngine)}"
    assert KEY not in shown
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("value", ["", " ", "two words", "line\nline", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_an_error_that_does_not_show_it(value, monkeypatch):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(SetupError) as caught:
        ApiKey.of_environment("MY_KEY")
    assert not value.strip() or value not in str(caught.value)


def test_a_key_that_was_not_named_is_not_sent_unencrypted_to_another_machine(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert key_for(Server("http://gpu1.example:8000/v1")) is None
    assert key_for(Server("https://api.example/v1"))
    assert key_for(Server("http://127.0.0.1:8000/v1"))
    assert key_for(Server("http://gpu1.example:8000/v1", api_key_env="OPENAI_API_KEY"))


def test_a_server_that_repeats_the_key_does_not_get_it_written(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    script = [fails(400, f"your key {KEY}"), says(b"nonsense " * 30 + KEY.encode()), answers(f"It is {KEY}.", reasoning=KEY)]
    with ServerDouble(script) as server:
        rows = ask(engine_on(server, concurrency=1, retries=0), 3)
    assert [row.finish for row in rows] == ["error", "error", "stop"]
    assert "your key [API key]" in rows[0].error
    assert rows[2].text == "It is [API key]."
    assert KEY[:12] not in repr(rows) + caplog.text


def test_a_word_that_stands_for_a_key_may_stand_in_an_answer(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with ServerDouble([answers("The set is EMPTY.")]) as server:
        assert ask(engine_on(server))[0].text == "The set is EMPTY."


def generate(tmp_path: Path, server: ServerDouble, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-c", f"import sys; sys.path.insert(0, {SRC!r}); from cotdistill.cli import main; main()",
            "generate", "--teacher_model", "m", "--base_url", server.url, "--input_file", str(tmp_path / "q.jsonl"),
            "--output_file", str(tmp_path / "t.jsonl"), *words,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "OPENAI_API_KEY": "", "COTDISTILL_TRACEBACK": "1", **variables},
    )  # fmt: skip


def write_questions(tmp_path: Path, count: int) -> None:
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]
    (tmp_path / "q.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("concurrency", 32), ("timeout", 5.0), ("api_key_env", "K"), ("api_key_file", Path("k")), ("price_prompt", 2.0),
     ("extra_body", "{}")],
)
def test_flags_of_a_server_need_one(flag, value):
    given = {"concurrency": 16, "timeout": 600.0, "api_key_env": None, "api_key_file": None}
    assert server_of(None, **given) is None
    with pytest.raises(UsageError, match=f"--{flag} is about a server"):
        server_of(None, **given | {flag: value})


def everything_written(directory: Path) -> bytes:
    return b"\0".join(str(path).encode() + path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_a_key_is_sent_and_never_written(tmp_path):
    write_questions(tmp_path, 6)
    key_file = tmp_path.with_name(f"{tmp_path.name}.key")
    key_file.write_text(KEY)
    script = [answers("Final Answer: 0"), fails(400, f"bad key {KEY}"), answers(f"{KEY}\nFinal Answer: 4")]
    prices = ("--price_prompt", "2", "--price_completion", "10")
    with ServerDouble(script, key=KEY, models=["m"]) as server:
        process = generate(tmp_path, server, "--api_key_env", "MY_KEY", *prices, MY_KEY=KEY)
        said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        asked = len(server.bodies)
        again = generate(tmp_path, server, "--api_key_file", str(key_file), "--concurrency", "3")
        said += again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert len(server.bodies) == asked + 1  # the row that had failed, whatever else is in flight
        server.key = "another"
        refused = generate(tmp_path, server, "--overwrite", "--api_key_file", str(key_file))
        said += refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert "refuses the API key (401)" in said[-1]
        assert "Traceback" not in said[-1]
    key_file.unlink()
    written = everything_written(tmp_path)
    assert b"t.manifest.json" in written
    assert KEY.encode() not in written
    assert KEY not in "".join(said)


def test_traces_made_with_another_extra_body_are_not_gone_on_with(tmp_path):
    write_questions(tmp_path, 2)
    with ServerDouble(models=["m"]) as server:
        for given, code, said in (
            ('{"top_k": 20}', 0, ""),
            ('{"top_k": 40}', 1, "model.extra_body.top_k: 20 -> 40"),
        ):
            process = generate(tmp_path, server, "--extra_body", given)
            _, err = process.communicate(timeout=60)
            assert process.returncode == code, err
            assert said in " ".join(err.split())
        assert [body["top_k"] for body in server.bodies] == [20, 20]


@pytest.mark.parametrize(
    ("given", "said"),
    [("top_k=20", "--extra_body is not a JSON object"), ("[1]", "--extra_body is not"), ('{"temperature": 1}', "must not hold")],
)
def test_an_extra_body_that_cannot_be_meant_is_a_usage_error(given, said):
    with pytest.raises(UsageError, match=said):
        server_of(["http://a/v1"], 16, 600.0, None, None, extra_body=given)


def test_the_servers_key_in_an_extra_body_is_refused_before_anything_is_written(tmp_path):
    write_questions(tmp_path, 1)
    with ServerDouble(models=["m"], key=KEY) as server:
        named = json.dumps({"user": f"me:{KEY}"})
        process = generate(tmp_path, server, "--extra_body", named, "--api_key_env", "MY_KEY", MY_KEY=KEY)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "extra_body holds the server's API key" in err
    assert KEY.encode() not in everything_written(tmp_path) + err.encode()


def test_the_teacher_of_an_evaluation_may_be_on_a_server(tmp_path, capsys):
    write_questions(tmp_path, 3)
    with ServerDouble([answers("Final Answer: 0"), answers("Final Answer: 2")], models=["m"]) as server:
        evaluate_all(
            [Entrant("teacher", "m", None, tmp_path / "p.jsonl")], tmp_path / "q.jsonl", tmp_path / "p.jsonl",
            max_new_tokens=9, batch_size=1, engine="openai_server", server=Server(server.url, concurrency=1),
            system_prompt="Add.", limit=None, load_in_4bit=None, device_map="auto", trust_remote_code=False,
            question_key="question", answer_key="answer", overwrite=False, quiet=True,
        )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_bytes().splitlines()]
    assert [row["correct"] for row in rows] == [True, True, False]
    assert "teacher" in capsys.readouterr().out


def test_tokens_and_money_stand_in_the_manifest_and_failed_rows_are_counted(tmp_path):
    write_questions(tmp_path, 4)
    with ServerDouble([fails(400, "too long")], models=["m"]) as server:
        process = generate(tmp_path, server, "--price_prompt", "2", "--price_completion", "10")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "4 traces" in out
    assert "1 error" in out
    stage = json.loads((tmp_path / "t.manifest.json").read_bytes())["stages"]["generate"]
    assert stage["settings"]["model"] == {"name": "m", "hash": ""}
    facts = stage["facts"]
    assert (facts["rows"], facts["errors"], facts["prompt_tokens"], facts["completion_tokens"]) == (4, 1, 21, 9)
    assert facts["money"] == pytest.approx((21 * 2 + 9 * 10) / 1e6)


def test_what_ends_the_asking_before_the_first_trace_is_what_is_said(tmp_path):
    write_questions(tmp_path, 3)
    with ServerDouble([fails(401, "no such key")] * 9, models=["m"]) as server:
        process = generate(tmp_path, server)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "401" in err
    assert "holds no trace" not in err


def test_ctrl_c_before_the_first_trace_is_an_interrupt(tmp_path):
    write_questions(tmp_path, 3)
    with ServerDouble([hangs] * 9, models=["m"]) as server:
        process = generate(tmp_path, server)
        while not server.bodies:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in err


def test_ctrl_c_ends_generation_soon_and_keeps_whole_rows_only(tmp_path):
    write_questions(tmp_path, 40)
    with ServerDouble([*[echoes()] * 5, *[hangs] * 40], models=["m"]) as server:
        process = generate(tmp_path, server, "--concurrency", "4")
        path = tmp_path / "t.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            time.sleep(0.02)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert "goes on from here" in err
    rows = [msgspec.json.decode(line, type=Trace) for line in path.read_bytes().splitlines()]
    assert [row.finish for row in rows] == ["stop"] * 5


# Settings


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"base_url": "https://me:hunter2@api.example/v1"}, "must not hold a user name or password"),
        ({"base_url": "api.example/v1"}, "must be an address such as"),
        ({"base_url": "https://api.example:hunter2/v1"}, "must be an address such as"),
        ({"base_url": "https://api.example/v1?key=hunter2"}, "nothing after"),
        ({"base_url": "https://api.example/v1/chat/completions"}, "before /chat/completions"),
        ({"base_url": ["http://a/v1", "http://a/v1/"]}, "the same address twice"),
        ({"base_url": []}, "base_url is empty"),
        ({"base_url": "http://a/v1", "api_key": "hunter2"}, "unknown field `api_key`"),
        ({"base_url": "http://a/v1", "api_key_env": "sk-hunter2"}, "name of an environment variable, not a key"),
        ({"base_url": "http://a/v1", "timeout": 0}, "timeout"),
        ({"base_url": "http://a/v1", "concurrency": 0}, "concurrency must be at least 1"),
        ({"base_url": "http://a/v1", "price_prompt": -1}, "price"),
        ({"base_url": "http://a/v1", "extra_body": {"top_k": 2, "seed": 1, "n": 2}}, "extra_body must not hold n, seed"),
        ({"base_url": "http://a/v1", "extra_body": {"api_key": "hunter2"}}, r"extra_body\.api_key looks like a secret"),
        ({"base_url": "http://a/v1", "extra_body": {"a": [{"Authorization": "hunter2"}]}}, "looks like a secret"),
        ({"base_url": "http://a/v1", "extra_body": {"user": "sk-hunter2"}}, r"extra_body\.user looks like a secret"),
        ({"base_url": "http://a/v1", "extra_body": [1]}, "object"),
    ],
)
def test_a_server_that_cannot_be_meant_is_refused_without_a_secret_in_the_sentence(server, said):
    with pytest.raises(DataError, match=said) as caught:
        recipe(server=server)
    assert "hunter2" not in str(caught.value)


def recipe(**models: object):
    questions = {"train": {"file": "a"}, "held_out": {"file": "b"}}
    return decode_recipe({"name": "r", "models": {"teacher": "m", "student": "s", **models}, "questions": questions}, "test")


def test_engine_and_server_belong_together():
    with pytest.raises(DataError, match="needs a server"):
        recipe(engine="openai_server")
    with pytest.raises(DataError, match="not llama_cpp"):
        recipe(engine="llama_cpp", server={"base_url": "http://a/v1"})
    whole = recipe(server={"base_url": ["http://a/v1/", "http://b/v1"]})
    assert whole.models.server.urls == ("http://a/v1", "http://b/v1")
    assert decode_recipe(yaml.safe_load(dump_recipe(whole)), "dumped") == whole


def test_a_model_on_a_server_is_known_by_its_name_and_nothing_is_asked_for_it():
    assert identify("org/m", gguf=True, server=Server("http://nowhere.invalid/v1")) == {"name": "org/m", "hash": ""}


def test_money_is_reckoned_per_million_tokens():
    assert Server("http://a/v1", price_prompt=0.5, price_completion=2).money(3_000_000, 250_000) == 2.0
    assert Server("http://a/v1").money(1, 1) is None
