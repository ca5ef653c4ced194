"""How many samples a question gets, who is asked when all failed, and what a cap stops."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from cotdistill import pipeline
from cotdistill.asking.ask import asked_once
from cotdistill.asking.drawing import Drawing, steps_of
from cotdistill.asking.spending import TEMPLATE, Spending
from cotdistill.commands import generate as command
from cotdistill.engines import Completion, Message, Request, Sampling
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.engines.server import Server
from cotdistill.errors import DataError, ResumeError, SetupError, UsageError
from cotdistill.journal import read_rows
from cotdistill.judging.pairs import teaching_pairs
from cotdistill.progress import Bar
from cotdistill.question import Question
from cotdistill.settings.generate import Escalate, Generate
from cotdistill.settings.models import Models
from cotdistill.settings.verify import Verify
from cotdistill.stages import generate as stage
from cotdistill.stages import models as models_of_stage
from cotdistill.stages.generate import run_generate
from cotdistill.stages.models import Teacher
from cotdistill.stages.verify import run_verify
from cotdistill.status import status_of
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace
from cotdistill.verdict import Verdict

HOT = Sampling(max_new_tokens=60, do_sample=True, temperature=0.7)
WAYS = ("Ten fives make fifty, one of them", "Count on the fingers of one hand", "Half of ten apples lie here, that",
        "Seven without two is what stays, it", "A week has five days of work, so that", "Three and two more together")
"""Beginnings that differ enough not to be near-duplicates."""


def right(way: int, answer: int = 5) -> str:
    return f"{WAYS[way]} is the number that was looked for.\nFinal Answer: {answer}"


class Ahead(ScriptedEngine):
    """Reads so many requests before it answers, and answers in any order; ``script`` is given question and sample."""

    def __init__(self, script: Callable[[str, int], str], ahead: int = 1, seed: int = 0) -> None:
        super().__init__(lambda _: "")
        self._script, self._ahead, self._random = script, ahead, random.Random(seed)
        self.streams = 0

    def complete(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        self.streams += 1
        todo, waiting = iter(requests), []
        while True:
            waiting += itertools.islice(todo, self._ahead - len(waiting))
            if not waiting:
                return
            request = waiting.pop(self._random.randrange(len(waiting)))
            self._answer = lambda text, request=request: self._script(text, request.seed)
            yield from super().complete([request], sampling)


def five(count: int) -> list[Question]:
    return [Question(f"q{i}", f"Which number is it, number {i}?", "5") for i in range(count)]


def generate(tmp_path: Path, engine: ScriptedEngine, questions: list[Question], settings: Generate, *,
             second: ScriptedEngine | None = None, server: Server | None = None, **more: object) -> list[Trace]:  # fmt: skip
    path = tmp_path / "traces.jsonl"
    other = Teacher({"name": "large", "hash": "l"}, lambda: second) if second else None
    run_generate(
        questions, path, Manifest.open(tmp_path / "manifest.json"), settings=settings, shots=(),
        model={"name": "small", "hash": "s"}, open_teacher=lambda: engine, server=server, second=other, quiet=True,
        **more,
    )  # fmt: skip
    return list(read_rows(path, Trace))


def facts(tmp_path: Path) -> dict[str, object]:
    return Manifest.open(tmp_path / "manifest.json").facts("generate")


def script_of(outcomes: dict[str, str]) -> Callable[[str, int], str]:
    """``outcomes`` maps a question's number to a letter for each sample: r right, d a duplicate of it, w wrong."""

    def script(text: str, sample: int) -> str:
        letter = outcomes[text.split()[-1].rstrip("?")][sample]
        return {"r": right(sample), "d": right(0), "w": right(sample, 6)}[letter]

    return script


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_a_question_gets_the_shortest_run_of_samples_with_enough_that_teach_whatever_the_engine_reads_ahead(
    tmp_path, ahead
):
    outcomes = {"0": "rrwwww", "1": "wrwrww", "2": "wwwwww", "3": "dddrww", "4": "wwwwrr", "5": "rwwwww"}
    engine = Ahead(script_of(outcomes), ahead)
    rows = generate(tmp_path, engine, five(6), Generate(num_samples=6, enough=2, sampling=HOT))
    asked = {q.id: sorted(row.sample for row in rows if row.question_id == q.id) for q in five(6)}
    assert {key: len(samples) for key, samples in asked.items()} == {
        "q0": 2, "q1": 4, "q2": 6, "q3": 4, "q4": 6, "q5": 6,
    }  # fmt: skip
    assert all(samples == list(range(len(samples))) for samples in asked.values())
    assert facts(tmp_path)["rows"] == len(rows) == len(engine.requests) == 28
    assert generate(tmp_path, Ahead(script_of(outcomes)), five(6), Generate(num_samples=6, enough=2, sampling=HOT)) == rows


def test_the_students_samples_have_a_line_of_their_own_on_the_screen(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(stage, "Bar", lambda title, *rest, **more: titles.append(title) or Bar(title, *rest, **more))
    for name in ("generate", "generate/student"):
        (tmp_path / name).mkdir()
        generate(tmp_path / name, ScriptedEngine(lambda _: right(0)), five(1), Generate(), stage=name)
    assert titles == ["traces", "traces/student"]


def test_an_engine_is_kept_busy_by_other_questions_while_one_waits(tmp_path):
    engine = Ahead(script_of({str(i): "wwwr" for i in range(40)}), 4)
    generate(tmp_path, engine, five(40), Generate(num_samples=4, enough=1, sampling=HOT))
    assert len(engine.requests) == 160
    seeds = [request.seed for request in engine.requests]
    assert seeds.index(3) < len(seeds) - 1 - seeds[::-1].index(0)  # rounds would end with idle slots, each of them
    assert engine.streams <= 4


def test_without_gold_enough_must_give_the_same_answer(tmp_path):
    def script(text: str, sample: int) -> str:
        return right(sample, (5, 6, 7, 6, 6, 6)[sample])

    rows = generate(tmp_path, Ahead(script, 8), [Question("q0", "Which?")], Generate(num_samples=6, enough=3, sampling=HOT))
    assert [row.final_answer for row in sorted(rows, key=lambda row: row.sample)] == ["5", "6", "7", "6", "6"]


def test_a_run_cut_off_anywhere_ends_with_the_same_rows(tmp_path):
    outcomes = {"0": "wrwrww", "1": "rrwwww", "2": "wwwwww", "3": "wwwwwr"}
    settings = Generate(num_samples=4, enough=2, escalate=Escalate(2), sampling=HOT)
    whole = generate(tmp_path, Ahead(script_of(outcomes), 3), five(4), settings)
    lines = (tmp_path / "traces.jsonl").read_bytes().splitlines(keepends=True)
    for kept in range(0, len(lines), 4):
        (tmp_path / "traces.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept][:9])
        engine = Ahead(script_of(outcomes), 3, seed=kept)
        rows = generate(tmp_path, engine, five(4), settings)
        assert sorted(row.id for row in rows) == sorted(row.id for row in whole), kept
        assert len(engine.requests) == len(whole) - kept


def test_more_may_be_enough_later_and_only_what_is_missing_is_asked(tmp_path):
    outcomes = {"0": "rrrrrr"}
    generate(tmp_path, Ahead(script_of(outcomes)), five(1), Generate(num_samples=6, enough=1, sampling=HOT))
    engine = Ahead(script_of(outcomes))
    rows = generate(tmp_path, engine, five(1), Generate(num_samples=6, enough=3, sampling=HOT))
    assert [request.key for request in engine.requests] == ["q0#1", "q0#2"]
    assert [row.sample for row in rows] == [0, 1, 2]


def test_a_question_whose_request_failed_waits_for_the_next_run(tmp_path):
    def down(text: str, sample: int) -> str:
        raise RuntimeError("down")

    settings = Generate(num_samples=4, enough=1, escalate=Escalate(2), sampling=HOT)
    assert [row.finish for row in generate(tmp_path, Ahead(down), five(1), settings)] == ["error"]
    rows = generate(tmp_path, Ahead(script_of({"0": "wr"})), five(1), settings)
    assert [row.id for row in rows] == ["q0#0", "q0#1"]


def test_a_failed_question_goes_from_hotter_samples_to_the_second_teacher_to_a_hint(tmp_path):
    def small(text: str, sample: int) -> str:
        return right(sample % 6) if text.endswith("number 0?") or (sample == 2 and "number 1?" in text) else "no idea"

    def large(text: str, sample: int) -> str:
        assert first.closed  # two models may not fit into the memory
        told = "right answer is 5" in text
        as_told = right(1) if "number 3?" in text else "As given, the answer is 5, so it must be so.\nFinal Answer: 5"
        return right(0) if "number 2?" in text else as_told if told else "I do not know this either."

    first, second = Ahead(small, 4), Ahead(large, 4)
    settings = Generate(num_samples=2, sampling=HOT, escalate=Escalate(2, 1.2), hint=True)
    questions = [*five(5), Question("q5", "Nobody knows this?")]
    rows = generate(tmp_path, first, questions, settings, second=second, verify=Verify(hinted=True))
    asked = {q.id: sorted(row.sample for row in rows if row.question_id == q.id) for q in questions}
    assert asked == {
        "q0": [0, 1],  # all samples that were wanted
        "q1": [0, 1, 2],
        "q2": [0, 1, 2, 3, 4],
        "q3": [0, 1, 2, 3, 4, 5, 6],
        "q4": [0, 1, 2, 3, 4, 5, 6, 7],
        "q5": [0, 1, 2, 3, 4, 5],  # without gold there is nothing to show
    }
    assert all(row.model == ("large" if row.sample >= 4 else "small") for row in rows)
    assert all(row.hinted == (row.sample >= 6) for row in rows)
    told = {request.key for request in [*first.requests, *second.requests] if "answer is 5" in request.messages[-1].content}
    assert told == {row.id for row in rows if row.hinted}
    assert facts(tmp_path)["by_step"] == {"": 12, "escalate": 9, "second_teacher": 7, "hint": 3}
    assert first.closed
    assert second.closed
    run_verify(questions, tmp_path / "traces.jsonl", tmp_path / "verdicts.jsonl", Verify(hinted=True))
    verdicts = {v.trace_id: v for v in read_rows(tmp_path / "verdicts.jsonl", Verdict)}
    assert verdicts["q4#6"].status == "leaks"
    taught = {key: (q.text, text) for key, q, text in teaching_pairs(questions, rows, verdicts.values())}
    assert taught["q3#6"] == (questions[3].text, right(1))
    assert {"q0#0", "q1#2", "q2#4"} < taught.keys()


def test_steps_may_be_added_but_one_that_was_begun_may_not_change(tmp_path):
    settings = Generate(num_samples=1, sampling=HOT)
    generate(tmp_path, Ahead(script_of({"0": "wwr"})), five(1), settings)
    more = msgspec.structs.replace(settings, escalate=Escalate(2, 0.9))
    engine = Ahead(script_of({"0": "wwr"}))
    assert [row.id for row in generate(tmp_path, engine, five(1), more)] == ["q0#0", "q0#1", "q0#2"]
    hotter = msgspec.structs.replace(settings, escalate=Escalate(2, 1.5))
    with pytest.raises(ResumeError, match=r"escalate\.sampling\.temperature: 0\.9 -> 1\.5"):
        generate(tmp_path, engine, five(1), hotter)
    generate(tmp_path, Ahead(script_of({"0": "w"})), five(1), settings, overwrite=True)
    generate(tmp_path, Ahead(script_of({"0": "wwr"})), five(1), hotter)


def test_a_question_with_some_that_teach_but_not_enough_is_not_escalated(tmp_path):
    settings = Generate(num_samples=3, enough=2, escalate=Escalate(2), sampling=HOT)
    rows = generate(tmp_path, Ahead(script_of({"0": "wrwrr", "1": "wwwrr"}), 4), five(2), settings)
    assert [sum(row.question_id == name for row in rows) for name in ("q0", "q1")] == [3, 5]


def test_a_cap_that_only_what_is_in_flight_might_pass_stops_nothing(tmp_path):
    settings = Generate("", sampling=Sampling(max_new_tokens=60), max_tokens_total=1500)
    assert len(generate(tmp_path, Ahead(script_of({str(i): "r" for i in range(30)}), 1000), five(30), settings)) == 30
    assert "capped" not in facts(tmp_path)


@pytest.mark.parametrize("ahead", [1, 5, 1000])
def test_a_cap_on_tokens_is_never_passed_and_a_higher_one_goes_on(tmp_path, caplog, ahead):
    script = script_of({str(i): "r" for i in range(90)})
    settings = Generate("", sampling=Sampling(max_new_tokens=60), max_tokens_total=1500)
    rows = generate(tmp_path, Ahead(script, ahead), five(90), settings)
    spent = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    assert 1500 - 60 - 256 - 80 < spent <= 1500  # less than one more request's bound is left over
    assert f"spent are {spent}" in caplog.text
    assert f"{90 - len(rows)} questions still lack samples" in caplog.text
    assert facts(tmp_path)["capped"]
    unasked = Ahead(script)
    assert generate(tmp_path, unasked, five(90), settings) == rows
    assert unasked.requests == []
    after = generate(tmp_path, Ahead(script, ahead), five(90), msgspec.structs.replace(settings, max_tokens_total=10**6))
    assert after[: len(rows)] == rows
    assert len(after) == 90
    assert "capped" not in facts(tmp_path)


def test_a_cap_on_money_is_never_passed_and_its_last_part_is_too_small_for_a_request(tmp_path):
    small = Server("http://localhost:1/v1", price_prompt=0.0, price_completion=10.0)
    script = script_of({str(i): "r" for i in range(30)})
    settings = Generate("", sampling=Sampling(max_new_tokens=60), max_cost=0.002)
    rows = generate(tmp_path, Ahead(script, 4), five(30), settings, server=small)
    spent = sum(row.completion_tokens for row in rows) * 10 / 1e6
    assert 0.002 - 60 * 10 / 1e6 < spent <= 0.002
    assert facts(tmp_path)["money"] == pytest.approx(spent)


def test_each_answer_is_paid_at_the_price_of_who_gave_it():
    cheap, dear = (Server(f"http://localhost:{port}/v1", price_prompt=0.0, price_completion=float(port)) for port in (1, 100))
    spending = Spending([cheap, dear])
    drawing = Drawing(five(1), steps_of(Generate(sampling=HOT), second=True), lambda *_: (), spending=spending)
    for sample in (0, 1):
        drawing.there(Trace(f"q0#{sample}", "q0", "Which?", "x", finish="stop", sample=sample, completion_tokens=1000))
    assert spending.money == pytest.approx(1000 * (1 + 100) / 1e6)


def test_a_prompt_is_taken_to_cost_a_token_a_byte_and_its_template():
    prompt, sampling = [Message("user", "\u4e09" * 10)], Sampling(max_new_tokens=5)
    assert TEMPLATE >= 256
    most = 3 * 10 + TEMPLATE + 5
    assert Spending(max_tokens=most).begin("a", 0, prompt, sampling)
    assert not Spending(max_tokens=most - 1).begin("a", 0, prompt, sampling)


def test_a_cap_on_money_without_prices_is_refused(tmp_path):
    for server in (None, Server("http://localhost:1/v1")):
        with pytest.raises(UsageError, match="price"):
            generate(tmp_path, Ahead(script_of({})), five(1), Generate(max_cost=1.0), server=server)


def test_impossible_settings_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="enough is 3, but num_samples allows no more than 2"):
        Generate(num_samples=2, enough=3, sampling=HOT)
    with pytest.raises(ValueError, match=r"num_samples above 1 needs do_sample \(--do_sample\), at a temperature: greedy samples are all the same"):
        Generate(num_samples=2)


def test_one_question_under_two_ids_is_asked_once_and_the_one_with_gold_stays():
    twins = [Question("a", "Two  and two?"), Question("b", "Two and two?", "4"), Question("c", "Three?"), Question("d", "Three?")]
    kept, others = asked_once(twins)
    assert [question.id for question in kept] == ["b", "c"]
    assert [question.id for question in others] == ["a", "d"]
    kept, others = asked_once([Question("a", "Two?", "2"), Question("b", "Two?", "2"), Question("c", "Two?")])
    assert [question.id for question in kept] == ["a"]  # of two with gold the first
    assert [question.id for question in others] == ["b", "c"]


def test_a_run_that_meets_a_cap_goes_on_with_the_traces_it_has(tiny, tmp_path, monkeypatch):
    import test_pipeline

    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(test_pipeline.solve))
    capped = test_pipeline.recipe(
        tiny, generate={"max_tokens_total": 900, "sampling": {"max_new_tokens": 256}}, plan={"skip": True}
    )
    pipeline.run(capped, runs=tmp_path, quiet=True)
    manifest = Manifest.open(tmp_path / "tiny" / "manifest.json")
    assert 0 < manifest.facts("generate")["rows"] < 6
    assert manifest.done("train")
    assert not status_of(tmp_path / "tiny").done


def test_a_cap_below_one_request_is_said_to_be_that(tiny, tmp_path, monkeypatch):
    import test_pipeline

    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(test_pipeline.solve))
    capped = test_pipeline.recipe(tiny, generate={"max_tokens_total": 500}, plan={"skip": True})
    with pytest.raises(SetupError, match="max_tokens_total is 500, spent are 0: not one request"):
        pipeline.run(capped, runs=tmp_path, quiet=True)


def test_what_was_cut_off_may_be_asked_for_with_more_tokens(tmp_path):
    class Cut(ScriptedEngine):
        def complete(self, requests, sampling):
            for one in super().complete(requests, sampling):
                yield msgspec.structs.replace(one, finish="length" if sampling.max_new_tokens < 50 else "stop")

    settings = Generate(num_samples=1, sampling=Sampling(20), escalate=Escalate(1, 0.8, 60), enough=1)
    rows = generate(tmp_path, Cut(lambda text: right(0)), five(2), settings)
    finishes = {"q0#0": "length", "q0#1": "stop", "q1#0": "length", "q1#1": "stop"}
    assert {row.id: row.finish for row in rows} == finishes
    assert (settings.longest, Generate().longest) == (60, 512)


def test_the_command_escalates_to_a_second_teacher_and_a_hint(tmp_path, monkeypatch):
    def open_teacher(models: Models, *_: object) -> ScriptedEngine:
        if models.teacher == "small":
            return Ahead(lambda *_: "no idea")
        return Ahead(lambda text, _: right(0) if "right answer is" in text else "no idea", 4)

    monkeypatch.setattr(models_of_stage, "engine_for", open_teacher)
    monkeypatch.setattr(models_of_stage, "identify", lambda name, **_: {"name": name, "hash": ""})
    (tmp_path / "q.jsonl").write_text('{"question": "Which number?", "answer": "5", "id": "q"}\n')
    command.generate("small", tmp_path / "q.jsonl", tmp_path / "t.jsonl", escalate=2, second_teacher="large", hint=True,
                     enough=1, max_tokens_total=10**6, quiet=True)
    rows = list(read_rows(tmp_path / "t.jsonl", Trace))
    assert [(row.model, row.hinted) for row in rows] == [*[("small", False)] * 3, ("large", False), ("large", True)]
    verdicts = list(read_rows(tmp_path / "t.verdicts.jsonl", Verdict))
    assert [verdict.status for verdict in verdicts] == [*["no_answer"] * 4, "correct"]


def test_a_recipe_with_hints_says_that_they_may_teach(tiny):
    from test_pipeline import recipe

    with pytest.raises(DataError, match=r"generate\.hint needs verify\.hinted"):
        recipe(tiny, generate={"hint": True})
    assert recipe(tiny, generate={"hint": True}, verify={"hinted": True}).generate.hint
