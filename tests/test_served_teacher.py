"""A scoring teacher on a server: what it says is what its own weights would, and whatever else it says is refused."""

import asyncio
from functools import partial

import msgspec
import pytest
import torch

from conftest import index_of_scores, make_examples, make_model, on_cpu
from cotdistill import pipeline
from cotdistill.engines.server import Server
from cotdistill.errors import ResumeError, ServerAway, SetupError
from cotdistill.example import build_example
from cotdistill.learning.layout import ordered
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.served_teacher import ServedTeacher
from cotdistill.learning.teacher_scores import UNNAMED, LoadedTeacher, shared_ids, together
from cotdistill.learning.terms import divergences
from cotdistill.question import Question
from cotdistill.recipe import decode_recipe
from server_double import ServerDouble, fails
from test_loss import adapted
from test_pipeline import teacher  # noqa: F401
from test_pipeline_objectives import SHOTS, command, manifest, with_objective


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("other"), seed=7)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def whole(text):
    """As vLLM has it: a token that is a part of a character stands for nothing, where it ends for all of it."""
    return "" if "\ufffd" in text else text


def serving(directory, *, decoded=whole, more=0, most=20, cap=99):
    """A server that answers as vLLM does: the likeliest tokens of each place and, if it is not one of them, the one
    that stands there. ``more`` ids beyond the tokenizer's are likelier than all others; ``cap`` are named at most."""
    model = on_cpu(directory)

    def behave(handler, body):
        if body["prompt_logprobs"] > most:
            said = f"Requested prompt logprobs of {body['prompt_logprobs']}, which is greater than max allowed: {most}"
            return handler.reply(400, {"error": {"message": said}})
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([body["prompt"]])).logits[0]
        logits = torch.cat([logits, torch.full((len(logits), more), 9.0)], dim=1)
        values = logits.log_softmax(dim=1)
        places = [None]
        for at, token in enumerate(body["prompt"][1:]):
            ids = values[at].topk(min(cap, body["prompt_logprobs"])).indices.tolist()
            ids += [] if token in ids else [token]
            places.append({
                str(i): {"logprob": values[at, i].item(), "rank": 1, "decoded_token": decoded(model.tokenizer.decode([i]))}
                for i in ids
            })  # fmt: skip
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": places}
        handler.reply(200, {"model": body["model"], "choices": [choice]})

    return behave


def served(double, tiny, k=5, **settings):
    return ServedTeacher("big", Server(double.url, **settings), on_cpu(tiny).tokenizer, k, pause=0.01)


def test_its_scores_are_those_of_its_weights(tiny, other):
    rows = make_examples(on_cpu(tiny), 5)[::-1]
    model = on_cpu(other)
    expected = LoadedTeacher(model, shared_ids(model.tokenizer, model.tokenizer), 5, rows).score(rows)
    with ServerDouble([fails(503), fails(500), *[serving(other)] * len(rows)]) as double:
        found = served(double, tiny).score(rows)
    for one, wanted in zip(found, expected, strict=True):
        assert torch.equal(one.ids, wanted.ids)
        assert torch.allclose(one.log_probs.float(), wanted.log_probs.float(), atol=5e-3)
        assert one.ids.dtype == wanted.ids.dtype
        assert one.log_probs.dtype == wanted.log_probs.dtype
    asked = double.bodies[-1]
    assert asked["prompt"] in [row.input_ids for row in rows]
    assert asked["model"] == "big"
    assert asked["max_tokens"] == 1


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_ids_that_mean_something_else_are_left_out_and_an_equal_student_has_nothing_to_learn(tiny, beta):
    model, module = adapted(tiny)  # whose adapter does something
    rows = make_examples(model, 2)
    sent = {model.tokenizer.decode([index]) for row in rows for index in row.input_ids}
    with ServerDouble(by_body=lambda body: serving(tiny, decoded=lambda text: text if text in sent else "?")) as double:
        scores = served(double, tiny).score(rows)
    named = torch.cat([one.ids[one.log_probs > UNNAMED] for one in scores])
    assert 0 < len(named) < sum(one.ids.numel() for one in scores)
    assert {model.tokenizer.decode([index]) for index in named.tolist()} <= sent | {"\ufffd"}
    lain = ordered(rows)
    kept = together([scores[rows.index(row)] for row in lain])

    def off(student):
        with AnswerLoss(student, model.template.pad_id, packed=True, chunked=True) as loss:
            return divergences(loss, student, lain, kept, beta)

    assert off(on_cpu(tiny).module).abs().max() < 1e-5
    assert off(module).mean() > 1e-4


def test_ids_that_the_student_lacks_are_among_the_rest(tiny, other):
    rows = make_examples(on_cpu(tiny), 2)
    with ServerDouble(by_body=lambda body: serving(other, more=3)) as double:
        for one in served(double, tiny).score(rows):
            assert int(one.ids.max()) < len(on_cpu(tiny).tokenizer)
            assert ((one.log_probs > UNNAMED).sum(dim=1) >= 2).all()
            assert (one.log_probs[:, 3:] <= UNNAMED).all()


def test_no_part_of_the_key_is_written_and_it_is_sent(tiny, other, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234")
    rows = make_examples(on_cpu(tiny), 1)
    with ServerDouble(key="sk-secret-1234", by_body=lambda body: serving(other, decoded=lambda t: "sk-secret-1234")) as d:
        with pytest.raises(SetupError, match="to the teacher") as refused:
            served(d, tiny).score(rows)
        assert "secret" not in str(refused.value)


def test_characters_of_several_tokens_are_no_hindrance(tiny, other):
    model = on_cpu(tiny)
    question = Question("q", "What is \u221a16 in \u20b9?")
    rows = [build_example(model.template, question, "\u221a16 = 4 \u20b9", system="", trace_id="q#0")]
    assert "\ufffd" in "".join(model.tokenizer.decode([index]) for index in rows[0].input_ids)
    with ServerDouble(by_body=lambda body: serving(other)) as double:
        assert len(served(double, tiny).score(rows)) == 1


def test_each_address_is_checked(tiny, other):
    dumb = lambda handler, body: handler.reply(200, {"choices": [{"text": "x"}]})  # noqa: E731
    with ServerDouble(by_body=lambda body: serving(other)) as one, ServerDouble(by_body=lambda body: dumb) as two:
        teacher = ServedTeacher("big", Server((one.url, two.url)), on_cpu(tiny).tokenizer, 5, pause=0.01)
        with pytest.raises(SetupError, match=f"{two.url}.*gives no probabilities"):
            teacher.check()
        assert len(one.bodies) == 1


@pytest.mark.parametrize("objective", ["on_policy", "offline_kd"])
def test_texts_beyond_its_context_are_refused_before_any_is_sent(tiny, other, tmp_path, objective):
    with ServerDouble(models=["big"], context=40, by_body=lambda body: serving(other, most=40)) as double:
        how = ["--objective", objective, "--teacher_model", "big", "--base_url", double.url]
        refused = command(tiny, tmp_path, *how)
        assert isinstance(refused.exception, SetupError)
        assert "its context has 39: lower" in str(refused.exception)
        assert len(double.bodies) == 1  # the check


def test_the_shortest_context_counts(tiny, other):
    listing = partial(ServerDouble, models=["big"], by_body=lambda body: serving(other))
    with listing(context=90) as one, listing() as two, listing(context=80) as three:
        urls = one.url, two.url, three.url
        teacher = ServedTeacher("big", Server(urls), on_cpu(tiny).tokenizer, 5, pause=0.01)
        teacher.check()
        assert teacher.context == 79


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (lambda other: serving(other, decoded=lambda text: f"{text}s"), "to the teacher and .* to the student"),
        (lambda other: serving(other, decoded=lambda text: None), "does not say what its tokens stand for"),
        (lambda other: serving(other, most=3), "greater than max allowed: 3; .*--max-logprobs 5"),
        (lambda other: serving(other, cap=3), "names [34] tokens where 5 were asked for"),
        (lambda other: lambda handler, body: handler.reply(200, {"choices": []}), "holds no answer"),
        (lambda other: lambda handler, body: handler.reply(200, {"choices": [{"text": "x"}]}), "gives no probabilities"),
        (lambda other: lambda handler, body: handler.reply(200, {"choices": [{"prompt_logprobs": [None]}]}),
         "it read 1 tokens where"),
        (lambda other: lambda handler, body: handler.reply(200, b"<html>"), "not what it should be"),
        (lambda other: fails(404), "knows no such model"),
        (lambda other: fails(503), "503: no; is the server running"),
    ],
)  # fmt: skip
def test_a_server_that_cannot_teach_is_refused(tiny, other, behaviour, said):
    away = (SetupError, ServerAway)
    with ServerDouble(by_body=lambda body: behaviour(other)) as double, pytest.raises(away, match=said) as refused:
        served(double, tiny, retries=1).check()
    again = refused.type is ServerAway
    assert again == (said in ("not what it should be", "holds no answer", "503: no; is the server running"))
    assert len(double.bodies) == 1 + again  # nothing is asked again that would be answered the same


@pytest.mark.parametrize("objective", ["on_policy", "offline_kd"])
def test_the_command_trains_with_it(tiny, other, tmp_path, objective):
    shots = tmp_path / "shots.jsonl"
    shots.write_text(SHOTS)
    with ServerDouble(by_body=lambda body: serving(other, most=40)) as double:
        how = ["--objective", objective, "--teacher_model", "big", "--base_url", double.url, "--few_shot", str(shots)]
        done = command(tiny, tmp_path, *how)
        assert done.exit_code == 0, done.output
        asked = len(double.bodies)
        assert asked == 5  # the check, and four rows of one epoch
        assert all("2 + 1 = 3." in on_cpu(tiny).tokenizer.decode(body["prompt"]) for body in double.bodies[1:])
        assert command(tiny, tmp_path, *how).exit_code == 0
        assert len(double.bodies) == asked  # what is done asks nobody
        if objective == "offline_kd":
            assert command(tiny, tmp_path, *how, "--overwrite").exit_code == 0
            assert len(double.bodies) == asked  # nor does a training whose scores are there
        refused = command(tiny, tmp_path, *how[:3], "bigger", *how[4:])
        assert isinstance(refused.exception, ResumeError)
    record = msgspec.json.decode((tmp_path / "out.manifest.json").read_bytes())["stages"]["train"]
    assert record["settings"]["teacher"] == {"name": "big", "hash": ""}
    if objective == "offline_kd":
        assert index_of_scores(tmp_path / "cot.scores.safetensors")["teacher"] == "server:big"


def test_every_connection_of_a_check_is_made_in_the_loop_that_closes_it(tiny, other, monkeypatch):
    own, longest = [], ServedTeacher._longest

    async def watched(self):
        own.append(asyncio.get_running_loop() is self._background._loop)
        return await longest(self)

    monkeypatch.setattr(ServedTeacher, "_longest", watched)
    with ServerDouble(by_body=lambda body: serving(other)) as double:
        ServedTeacher("big", Server(double.url), on_cpu(tiny).tokenizer, 5).check()
    assert own == [True]


def test_a_dry_run_asks_it_too(tiny, other, tmp_path):
    how = ["--objective", "offline_kd", "--teacher_model", "big", "--dry_run"]
    with ServerDouble(by_body=lambda body: serving(other, most=3)) as double:
        refused = command(tiny, tmp_path, *how, "--base_url", double.url)
    assert "max allowed: 3" in str(refused.exception)
    refused = command(tiny, tmp_path, "--objective", "offline_kd", "--base_url", "http://localhost:9/v1")
    assert "--base_url needs --teacher_model" in str(refused.exception)
    refused = command(tiny, tmp_path, "--base_url", "http://localhost:9/v1")
    assert "sft has no --base_url" in str(refused.exception)


@pytest.mark.parametrize("objective", ["on_policy", "offline_kd"])
def test_a_recipe_learns_from_it_and_from_no_server_that_cannot(tiny, other, tmp_path, teacher, objective):  # noqa: F811
    plain = msgspec.to_builtins(with_objective(tiny, objective, **{objective: {"top_k": 5}}))
    plain["models"]["engine"] = "openai_server"
    with ServerDouble([serving(other, cap=2)], models=["big"], by_body=lambda body: None) as double:
        double.by_body = lambda body: serving(other) if len(double.bodies) > 1 else None
        plain["models"] |= {"teacher": "big", "server": {"base_url": double.url}}
        with pytest.raises(SetupError, match=r"names [23] tokens where 5"):
            pipeline.run(decode_recipe(plain, "test"), runs=tmp_path, quiet=True)
        assert not (tmp_path / "tiny/2_traces.jsonl").exists()
        pipeline.run(decode_recipe(plain, "test"), runs=tmp_path, quiet=True)
    stage = manifest(tmp_path / "tiny")["train"]
    assert stage["settings"]["teacher"] == {"name": "big", "hash": ""}
    assert stage["facts"]["examples"] == 6
