"""What the student finds likely: the model's own numbers, made once, and chosen by."""

import json
import random
from pathlib import Path

import msgspec
import pytest
import torch
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from conftest import make_examples, make_gpt2, make_model, on_cpu
from cotdistill import pipeline
from cotdistill.cli import app
from cotdistill.engines import Message
from cotdistill.engines.scripted import ScriptedEngine
from cotdistill.errors import CotdistillError, DataError, ResumeError, UsageError
from cotdistill.journal import read_rows
from cotdistill.judging.files import judge_question
from cotdistill.judging.likelihood import Likelihood, Likelihoods, text_hash
from cotdistill.learning.loss import AnswerLoss
from cotdistill.learning.student_scores import mean_nats
from cotdistill.question import Question
from cotdistill.recipe import decode_recipe
from cotdistill.settings.verify import Verify
from cotdistill.stages import likelihoods as stage
from cotdistill.trace import Trace
from test_pipeline import recipe, solve
from test_terms import row_logits


def naive(model, row):
    with torch.no_grad():
        return float(cross_entropy(*row_logits(model.module, row)))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("make", [make_model, make_gpt2])
def test_nats_are_the_mean_of_the_models_own_log_softmax_row_by_row(tmp_path, make, packed, monkeypatch):
    model = on_cpu(make(tmp_path))
    if not packed:
        monkeypatch.setattr("cotdistill.learning.student_scores.choose",
                            lambda module, rows, pad, pack: AnswerLoss(module, pad, packed=False, chunked=False))  # fmt: skip
    monkeypatch.setattr("cotdistill.learning.student_scores.WINDOW", 5)
    monkeypatch.setattr("cotdistill.learning.student_scores.AT_ONCE", 2)
    rows = make_examples(model, 11)
    random.Random(0).shuffle(rows)
    expected = {row.trace_id: naive(model, row) for row in rows}
    found = {row.trace_id: nats for row, nats in mean_nats(model, rows)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(set(found.values())) == 11


def test_a_text_is_known_by_its_words_question_and_prompt_and_else_infinitely_unlikely():
    asked = Question("q", "2 + 2?")
    known = Likelihoods("Add.", [Likelihood(text_hash("Add.", asked, "4"), "q#0", 0.5, 2),
                                 Likelihood(text_hash("Add.", asked, "four"), "q#1", None, 9000)])  # fmt: skip
    assert known.nats(Question("other id", "2 + 2?"), "4") == 0.5
    assert known.nats(asked, "four") == known.nats(asked, "5") == float("inf")
    assert known.nats(Question("q", "3 + 1?"), "4") == Likelihoods("Think.", []).nats(asked, "4") == float("inf")


def test_preferring_the_likely_without_their_likelihoods_is_refused():
    traces = [Trace("q#0", "q", "2 + 2?", "4"), Trace("q#1", "q", "2 + 2?", "It is 4")]
    with pytest.raises(UsageError, match="score them first"):
        judge_question(Question("q", "2 + 2?"), traces, Verify(max_per_question=1, prefer="likely"))


# The command


WAYS = "{0} + 1 = {1}.", "One more than {0} is what we want, so {0} + 1 = {1}.", "1 + {0} = {1}, by counting up once."


def write(path: Path, numbers=range(3), ways=WAYS):
    rows = [{"question": f"What is {n} + 1?", "reasoning": way.format(n, n + 1) + f"\nFinal Answer: {n + 1}"}
            for n in numbers for way in ways]  # fmt: skip
    rows.append({"question": "What is 9 + 9?", "reasoning": "9 + 9 = 18.\nFinal Answer: 18"})
    rows.append({"question": "What is 0 + 1?", "reasoning": "0 + 1 = 2.\nFinal Answer: 2"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def verify(tmp_path, monkeypatch, tiny):
    """Run the command in a directory of its own; returns the verdicts' statuses and the rows with a score."""
    monkeypatch.chdir(tmp_path)
    write(Path("t.jsonl"))

    def call(*words, output="v.jsonl", student=tiny):
        line = ["verify", "--traces", "t.jsonl", "--output", output, "--max_per_question", "1", "--quiet"]
        outcome = CliRunner().invoke(app, [*line, "--prefer", "likely", "--student_model", str(student), *words])
        if isinstance(outcome.exception, CotdistillError):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome.output
        statuses = [json.loads(verdict)["status"] for verdict in Path(output).read_text().splitlines()]
        return statuses, list(read_rows("t.likelihoods.jsonl", Likelihood))

    return call


@pytest.fixture
def scored(monkeypatch):
    """The ids of the traces that a student scores, as it does."""
    ids, score = [], mean_nats

    def noted(model, rows):
        for row, nats in score(model, rows):
            ids.append(row.trace_id)
            yield row, nats

    monkeypatch.setattr("cotdistill.learning.student_scores.mean_nats", noted)
    return ids


def test_the_likeliest_trace_of_each_question_teaches_and_only_contenders_are_scored(verify, tiny):
    statuses, rows = verify("--system_prompt", "Add.")
    assert len(rows) == 9  # neither the only trace of a question nor the wrong one
    for at in range(0, 9, 3):
        nats = [row.nats_per_token for row in sorted(rows, key=lambda row: order(row.trace_id))][at : at + 3]
        assert statuses[at : at + 3].index("unchecked") == nats.index(min(nats))
    assert statuses.count("not_selected") == 6
    assert statuses[9:] == ["unchecked", "bad_step"]
    model, traces = on_cpu(tiny), [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    first = next(row for row in rows if order(row.trace_id) == 0)
    messages = [Message("system", "Add."), Message("user", traces[0]["question"])]
    prompt, text = model.template.prompt_ids(messages), model.template.answer_ids(traces[0]["reasoning"])
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    assert first.nats_per_token == pytest.approx(float(cross_entropy(logits, torch.tensor(text))), rel=1e-4)
    assert first.tokens == len(text)


def order(trace_id: str) -> int:
    verdicts = [json.loads(line)["trace_id"] for line in Path("v.jsonl").read_text().splitlines()]
    return verdicts.index(trace_id)


def test_nothing_is_scored_twice_and_what_is_new_is_added(verify, scored):
    first, rows = verify()
    assert len(scored) == 9
    assert verify() == (first, rows)
    verify("--overwrite", "--short_share", "0.5")  # other verdicts, the same scores
    assert len(scored) == 9
    write(Path("t.jsonl"), range(4))
    assert len(verify(output="w.jsonl")[1]) == 12
    assert len(scored) == 12


def test_after_a_stop_only_the_rest_is_scored(verify, scored, monkeypatch):
    append = stage.Journal.append

    def stopped(journal, row):
        if len(journal.done) == 4:
            raise CotdistillError("stopped")
        append(journal, row)

    with monkeypatch.context() as patch:
        patch.setattr(stage.Journal, "append", stopped)
        with pytest.raises(CotdistillError, match="stopped"):
            verify()
    with Path("t.likelihoods.jsonl").open("ab") as file:
        file.write(b'{"text": "12')  # the row that was being written
    del scored[:]
    assert len(verify()[1]) == 9
    assert len(scored) == 5


def test_another_student_or_prompt_is_refused_and_overwrite_scores_anew(verify, scored, tmp_path):
    verify()
    other = make_model(tmp_path / "other", seed=7)
    before = Path("t.likelihoods.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=r"student\.hash"):
        verify(student=other)
    with pytest.raises(ResumeError, match="system_prompt"):
        verify("--system_prompt", "Add.")
    assert Path("t.likelihoods.jsonl").read_bytes() == before
    assert len(scored) == 9
    verify("--overwrite", student=other)
    assert len(scored) == 18
    assert Path("t.likelihoods.jsonl").read_bytes() != before


def test_what_the_students_context_does_not_hold_is_chosen_last_and_not_scored_again(verify, scored, tmp_path):
    write(Path("t.jsonl"), ways=[WAYS[0] + " So it is." * 40, WAYS[1], WAYS[2]])
    short = make_model(tmp_path / "short", context=420)
    statuses, rows = verify(student=short)
    assert [row.nats_per_token for row in rows].count(None) == 3
    assert statuses[0] == statuses[3] == statuses[6] == "not_selected"
    verify(student=short)
    assert len(scored) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prefer", "likely", "--max_per_question", "1"], "go together"),
        (["--student_model", "somebody"], "go together"),
        (["--prefer", "short"], "need max_per_question"),
        (["--short_share", "0.8"], "need max_per_question"),
        (["--output", "t.likelihoods.jsonl"], "read and written"),
    ],
)
def test_flags_that_mean_nothing_are_refused(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    write(Path("t.jsonl"))
    outcome = CliRunner().invoke(app, ["verify", "--traces", "t.jsonl", "--output", "v.jsonl", *words])
    assert isinstance(outcome.exception, UsageError)
    assert said in str(outcome.exception)
    assert not Path("v.jsonl").exists()


# A whole run


def test_a_run_trains_on_the_traces_that_its_student_finds_likely(tiny, tmp_path, monkeypatch, scored):
    ways = iter(range(10**6))

    def answer(question):
        return f"{'Well, now. ' * (next(ways) % 3 * 2)}{solve(question)}"

    monkeypatch.setattr(pipeline, "engine_for", lambda *_: ScriptedEngine(answer))
    plain = msgspec.to_builtins(recipe(tiny, plan={"skip": True}, verify={"max_per_question": 1, "prefer": "likely"}))
    plain["generate"] |= {"num_samples": 3, "sampling": {"do_sample": True, "temperature": 0.5}}
    plain["questions"]["unseen"], plain["questions"]["held_out"]["tasks"][0]["size"] = None, 1
    plain["evaluate"] |= {"max_new_tokens": 4, "teacher": False}
    pipeline.run(decode_recipe(plain, "test"), runs=tmp_path, quiet=True)
    directory = tmp_path / "tiny"
    rows = [msgspec.json.decode(line) for line in (directory / "3_likelihoods.jsonl").read_bytes().splitlines()]
    taught = [json.loads(line) for line in (directory / "4_examples.jsonl").read_text().splitlines()]
    nats: dict[str, dict[float, str]] = {}
    for row in rows:
        nats.setdefault(row["trace_id"].split("#")[0], {})[row["nats_per_token"]] = row["trace_id"]
    assert len(taught) == len(nats) == 6
    assert {row["trace_id"] for row in taught} == {found[min(found)] for found in nats.values()}
    record = json.loads((directory / "manifest.json").read_text())["stages"]["likelihoods"]
    assert record["facts"]["rows"] == len(rows) == len(scored)


@pytest.mark.parametrize("section", [{"prefer": "likely"}, {"short_share": 0.5}, {"max_per_question": 1, "prefer": "long"}])
def test_a_section_that_means_nothing_is_refused(tiny, section):
    with pytest.raises(DataError, match=r"need max_per_question|verify\.prefer"):
        recipe(tiny, verify=section)
