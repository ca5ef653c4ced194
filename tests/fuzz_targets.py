"""What is fuzzed: every way in for bytes and text that others wrote. ``test_fuzz`` and ``fuzz_atheris`` share these.

A target takes any bytes and returns, or raises a ``CotdistillError``, or has found a bug.
"""

import atexit
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from cotdistill.answer import Answer, find_answer, kind_of, read_answer, same_answer
from cotdistill.card import CARD, read_card
from cotdistill.journal import Journal, forget_errors, read_rows
from cotdistill.judging.contamination import Contamination
from cotdistill.judging.files import compared_with
from cotdistill.judging.selection import drop_duplicates, keep
from cotdistill.judging.vote import vote
from cotdistill.prompt import load_few_shot, messages_for, prompt_hash
from cotdistill.question import Question, load_questions
from cotdistill.reading.kinds import KINDS
from cotdistill.reading.symbolic import latex
from cotdistill.recipe import Recipe, decode_recipe, dump_recipe, load_recipe, recipe_hash
from cotdistill.report import from_json
from cotdistill.shown import one_line
from cotdistill.steps import check_steps
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace
from cotdistill.trace_file import TraceFile
from cotdistill.verdict import Verdict, judge, judge_gold, taught_text

_FOLDER = tempfile.TemporaryDirectory()
atexit.register(_FOLDER.cleanup)
FOLDER = Path(_FOLDER.name)


def _file(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def _questions(suffix: str) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        for question in load_questions(_file(f"questions{suffix}", data)):
            judge_gold(question)
            prompt_hash(messages_for(question, "Think."))
            msgspec.json.encode(question)  # it will stand in 1_questions.jsonl

    return target


def traces(data: bytes) -> None:
    """A file of traces, ours or hand-made, and all that is decided about them without other processes."""
    with TraceFile(_file("traces.jsonl", data)) as file:
        contamination = Contamination([Question("t", "What is 15% of 240?")], file.questions())
        for group in file.groups():
            contamination.exact(group.question)
            contamination.ngram(group.question)
            verdicts = [judge(trace, group.question) for trace in group.traces]
            verdicts = vote(group.question, list(zip(group.traces, verdicts, strict=True)))
            verdicts = drop_duplicates(list(zip(group.traces, verdicts, strict=True)))
            judged = list(zip(group.traces, verdicts, strict=True))
            keep(judged, 2, "few_steps", short_share=0.5)
            verdicts = keep(judged, 2)
            for trace, verdict in zip(group.traces, verdicts, strict=True):
                msgspec.json.encode(verdict)
                taught_text(trace, verdict)


def journal(data: bytes) -> None:
    """A journal opens or says why not; once open it takes a row, and opens again with all that it had."""
    path = _file("journal.jsonl", data)
    new = Trace("a new id", "q", "2 + 2?", "4")
    with Journal(path, Trace, key=lambda row: row.id) as first:
        had = len(first.done)
        if new.id in first.done:
            return
        first.append(new)
    rows = list(read_rows(path, Trace))
    assert len(rows) == had + 1
    assert rows[-1] == new
    forget_errors(path, Trace)
    with Journal(path, Trace, key=lambda row: row.id) as again:
        assert len(again.done) == sum(row.finish != "error" for row in rows)


def refused_journal(data: bytes) -> None:
    """A journal that does not open stays as it was."""
    path = _file("refused.jsonl", data)
    try:
        with Journal(path, Trace, key=lambda row: row.id):
            pass
    except Exception:
        assert path.read_bytes() == data
        raise


def verdicts(data: bytes) -> None:
    list(compared_with(_file("verdicts.jsonl", data), [Verdict("q#0", "correct", "4")], keep=True))


def answers(data: bytes) -> None:
    """Two texts: each is read in every way, and comparing is reflexive and symmetric."""
    one, _, other = _text(data).partition("\x1e")
    kind_of(one)
    found: list[Answer] = []
    for kind, fallback in itertools.product(("auto", *KINDS), (False, True)):
        choices = ["red", other] if kind == "choice" else None
        found += [find_answer(one, kind, fallback=fallback, choices=choices), read_answer(other, kind, choices)]
    for a, b in itertools.product(found, found[-4:]):
        assert same_answer(a, b) == same_answer(b, a), (a, b)
    for a in found:
        assert a.value is None or same_answer(a, a), a
        latex(a.text)
        one_line(a.text)
    assert same_answer(one, other) == same_answer(other, one)


def _text(data: bytes) -> str:
    """Any bytes as text, lone surrogates included."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def steps(data: bytes) -> None:
    text = _text(data)
    assert len(check_steps(text).bad) <= check_steps(text).claims


def judged(data: bytes) -> None:
    """One trace against a gold, split at the record separator: gold, question, reasoning."""
    gold, _, rest = _text(data).partition("\x1e")
    asked, _, reasoning = rest.partition("\x1e")
    for given, choices in ((gold, None), (None, None), (gold, ("red", gold))):
        question = Question("q", asked, given, choices=choices)
        trace = Trace("q#0", "q", asked, reasoning)
        taught_text(trace, judge(trace, question, markers=(gold or "A:", "\\boxed{}"), max_words=50))
        judge_gold(question)


def recipe(data: bytes) -> None:
    _holds(load_recipe(_file("recipe.yaml", data)))


def recipe_data(data: object) -> None:
    """Plain data that is nearly a recipe."""
    _holds(decode_recipe(data, "recipe"))


def _holds(loaded: Recipe) -> None:
    """What was read can be hashed, written and read again."""
    recipe_hash(loaded)
    written = dump_recipe(loaded)
    assert dump_recipe(load_recipe(_file("again.yaml", written.encode()))) == written
    assert (FOLDER / loaded.name).parent == FOLDER


def few_shot(data: bytes) -> None:
    load_few_shot(_file("few_shot.jsonl", data))


def manifest(data: bytes) -> None:
    opened = Manifest.open(_file("manifest.json", data))
    opened.claim("generate", {"temperature": 0.5}, overwrite=True, files=[])
    opened.finish("generate", rows=3)
    assert Manifest.open(opened.path).facts("generate")["rows"] == 3


def card(data: bytes) -> None:
    _file(CARD, data)
    read_card(FOLDER)


def report(data: bytes) -> None:
    from_json(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "questions_jsonl": _questions(".jsonl"), "questions_csv": _questions(".csv"),
    "questions_parquet": _questions(".parquet"), "traces": traces, "journal": journal,
    "refused_journal": refused_journal, "verdicts": verdicts, "answers": answers, "steps": steps, "judged": judged,
    "recipe": recipe, "few_shot": few_shot, "manifest": manifest, "card": card, "report": report,
}  # fmt: skip


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = pyarrow.BufferOutputStream()
    table = pyarrow.table({"question": ["2 + 2?", "Red?"], "answer": [4.0, None], "choices": [None, ["red", "blue"]]})
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue().to_pybytes()


QUESTION_ROWS = (
    b'{"question": "What is 15% of 240?", "answer": "36", "id": "q1"}',
    b'{"question": "Red or blue?", "choices": ["red", "blue"], "answer": "B", "category": null}',
    b'{"instruction": "Add.", "input": "2, 3", "output": 5.50}',
    b'{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "It is\\n#### 4"}]}',
)
TRACE_ROWS = (
    b'{"id": "q1#0", "question_id": "q1", "question": "2 + 2?", "reasoning": "2 + 2 = 4.\\nFinal Answer: 4", '
    b'"final_answer": "4", "finish": "stop", "sample": 0}',
    b'{"question": "2 + 2?", "cot": "Two and two are four. \\\\boxed{4}", "answer": 4}',
    b'{"id": "q1#1", "question_id": "q1", "question": "2 + 2?", "reasoning": "", "finish": "error", "error": "x"}',
)
SEEDS: dict[str, tuple[bytes, ...]] = {
    "questions_jsonl": (b"\n".join(QUESTION_ROWS), b"[" + b",\n".join(QUESTION_ROWS) + b"]"),
    "questions_csv": (b'question,answer,id\n"What is 2, 2?",4,q1\nRed?,no,q2\n',),
    "questions_parquet": (_parquet(),),
    "traces": (b"\n".join(TRACE_ROWS),),
    "journal": (TRACE_ROWS[0] + b"\n" + TRACE_ROWS[2] + b"\n", TRACE_ROWS[0] + b"\n" + TRACE_ROWS[2][:40]),
    "refused_journal": (TRACE_ROWS[0] + b"\n{}\n" + TRACE_ROWS[2][:40],),
    "verdicts": (b'{"trace_id":"q#0","status":"correct","answer":"4"}\n{"trace_id":"q#1","status":"error"}\n',),
    "answers": (b"15% of $2,400.50 is 3/4\nFinal Answer: \\boxed{36} km/h\x1e36 km/h",
                b"(B) red, on 5 March 2024 at 3:05 PM\x1e[1, 2; x = 3]"),
    "steps": ("<<12*3=36>>36. So 2/3 of 9 is 6, 1,000 - 50% = 500 and 2 x (3 + 4)^2 ≈ 98 cm".encode(),),
    "judged": (b"36\x1eWhat is 15% of 240?\x1e<think>0.15 * 240</think> = 36.\nFinal Answer: 36\nQuestion: 2?",),
    "recipe": (
        b"name: a\nmodels: {teacher: t, student: s}\nquestions:\n  train: {tasks: [{name: chain_sum, size: 3}]}\n"
        b"  held_out: {file: test.jsonl, limit: 5}\ntrain: {learning_rate: 2.0e-4, lora: {r: 8, targets: [q]}}\n"
        b"generate: &g\n  num_samples: 2\n  sampling: {do_sample: true, temperature: .5}\n",
    ),
    "few_shot": (b'{"question": "2 + 2?", "reasoning": "Final Answer: 4"}\n',),
    "manifest": (b'{"schema": 1, "versions": {}, "stages": {"generate": {"settings": {}, "files": [], "started": ""}}}',),
    "card": (b'{"system_prompt": "", "template_hash": "0", "base_hash": "0", "base_name": "s"}',),
    "report": ((Path(__file__).parents[1] / "benchmarks/results/multiarith.json").read_bytes(),),
}  # fmt: skip
