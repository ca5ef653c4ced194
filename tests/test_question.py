"""What loading promises: every question once, with its gold, or one sentence that says which line is wrong."""

import contextlib
import json
import sys
import types
from pathlib import Path

import msgspec
import pytest

from cotdistill.errors import CotdistillError, DataError, SetupError, UsageError
from cotdistill.overlap import overlap, refuse_overlap, words
from cotdistill.question import Question, content_id, gold_part, load_questions


def load(tmp_path: Path, content: str | bytes, name: str = "q.jsonl", **options: object) -> list[Question]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_questions(path, **options)  # type: ignore[arg-type]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def asked(*texts: str) -> list[Question]:
    return [Question(f"q{number}", text) for number, text in enumerate(texts)]


# loading


def test_a_row_becomes_a_question_and_extra_keys_are_left_alone(tmp_path: Path) -> None:
    row = {"question": "What is 2?", "answer": "2", "id": 7, "kind": "number", "category": "c", "source": {"x": 1}}
    assert load(tmp_path, lines(row)) == [Question("7", "What is 2?", "2", "number", "c")]


def test_a_loaded_question_round_trips_through_our_own_files(tmp_path: Path) -> None:
    (question,) = load(tmp_path, lines({"question": "Which?", "answer": "B", "choices": ["x", 2]}))
    assert question.choices == ("x", "2")
    assert msgspec.json.decode(msgspec.json.encode(question), type=Question) == question


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ('"He has 9 * 2 = 18.\\n#### 18"', "18"), ('"#### -3 "', "-3"), ("36", "36"), ("36.50", "36.50"),
        ("-0.10", "-0.10"), ("9007199254740993", "9007199254740993"), ("1e3", "1e3"), ("true", "true"),
        ("null", None), ('""', None), ('"  "', None),
    ],
)  # fmt: skip
def test_gold_is_what_the_author_wrote(tmp_path: Path, answer: str, gold: str | None) -> None:
    (question,) = load(tmp_path, f'{{"question": "q?", "answer": {answer}}}')
    assert question.gold == gold


def test_the_id_is_the_content_not_the_place(tmp_path: Path) -> None:
    first = load(tmp_path, lines({"question": "What is 15% of 240?"}))[0]
    again = load(tmp_path, lines({"question": "other"}, {"question": " What is\n１５% of  240?"}))[1]
    assert first.id == again.id
    assert len(first.id) == 16
    assert content_id("What is 5²?") != content_id("What is 52?")
    assert content_id("Which?", ["a", "b"]) != content_id("Which?", ["a", "c"])


def test_identical_rows_count_once_and_their_number_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"question": "What is 2?", "answer": "2"}
    loaded = load(tmp_path, lines({"question": "What  is 2?"}, row, row, {"question": "3?"}))
    assert [(question.text, question.gold) for question in loaded] == [("What is 2?", "2"), ("3?", None)]
    load_questions(tmp_path / "q.jsonl")
    assert caplog.text.count("q.jsonl: 2 rows repeat an earlier one and count once") == 1
    caplog.clear()
    load(tmp_path, lines(row, {"question": "3?"}))
    assert not caplog.text


def test_rows_with_ids_of_their_own_stay_apart(tmp_path: Path) -> None:
    loaded = load(tmp_path, lines({"question": "2?", "id": "a"}, {"question": "2?", "id": "b"}))
    assert [question.id for question in loaded] == ["a", "b"]


def test_one_id_with_two_texts_is_refused_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"q\.jsonl:3: the id 'a' .* at .*q\.jsonl:1"):
        load(tmp_path, lines({"question": "2?", "id": "a"}, {"question": "4?"}, {"question": "3?", "id": "a"}))


@pytest.mark.parametrize("ids", [{}, {"id": "other"}])
def test_one_text_with_two_golds_is_refused_with_both_lines(tmp_path: Path, ids: dict[str, str]) -> None:
    rows = lines({"question": "2?", "answer": "2"}, {"question": "2?", "answer": 3, **ids})
    with pytest.raises(DataError, match=r"q\.jsonl:2: the answer is '3', .* '2' at .*q\.jsonl:1"):
        load(tmp_path, rows)


def test_limit_keeps_the_first(tmp_path: Path) -> None:
    content = lines({"question": "1?"}, {"question": "1?"}, {"question": "2?"}, {"question": "3?"})
    assert [question.text for question in load(tmp_path, content, limit=2)] == ["1?", "2?"]
    with pytest.raises(UsageError):
        load(tmp_path, content, limit=0)


def test_other_keys_can_be_named(tmp_path: Path) -> None:
    content = lines({"prompt": "2?", "target": "2", "question": "not this"})
    (question,) = load(tmp_path, content, question_key="prompt", answer_key="target")
    assert (question.text, question.gold) == ("2?", "2")


def test_bom_crlf_blank_lines_and_line_separators_inside_text_are_tolerated(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"question": "1?"}\r\n\r\n' + '{"question": "a\u2028b\u0085c"}'.encode()
    assert [question.text for question in load(tmp_path, content)] == ["1?", "a\u2028b\u0085c"]


def test_a_json_array_alpaca_messages_and_prompt_completion_rows_load(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2?"},
        {"role": "assistant", "content": "It is\n#### 2"},
    ]
    alpaca = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    pair = {"prompt": "5?", "completion": [{"role": "assistant", "content": "5"}]}
    rows = [alpaca, {"instruction": "Say 4.", "input": "", "output": "4"}, {"messages": turns}, pair]
    loaded = load(tmp_path, json.dumps(rows, indent=1), "q.json")
    assert [(question.text, question.gold) for question in loaded] == [
        ("Add.\n\n1 and 2", "3"),
        ("Say 4.", "4"),
        ("2?", "2"),
        ("5?", "5"),
    ]


@pytest.mark.parametrize(
    "roles", [["user", "assistant", "user", "assistant"], ["user", "user", "assistant"], ["assistant", "user"], []]
)
def test_a_conversation_of_more_than_one_exchange_has_no_gold_to_guess(tmp_path: Path, roles: list[str]) -> None:
    turns = [{"role": "system", "content": "s"}, *({"role": role, "content": f"{i}"} for i, role in enumerate(roles))]
    told = ", ".join(map(repr, roles)) or "none"
    with pytest.raises(DataError, match=rf"q\.jsonl:2: its turns \({told}\) are not one question and its answer"):
        load(tmp_path, lines({"question": "1?"}, {"messages": turns}))


def test_csv_loads_with_quotes_line_breaks_and_a_bom(tmp_path: Path) -> None:
    content = '\ufeffquestion,answer,note\r\n"How many, in\nall?","1,200",x\r\nWhat?,,\r\n'
    loaded = load(tmp_path, content, "q.csv")
    assert [(question.text, question.gold) for question in loaded] == [("How many, in\nall?", "1,200"), ("What?", None)]


def test_parquet_loads_where_pyarrow_is_installed(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "q.parquet"
    table = pyarrow.table({"question": ["1?", "2?"], "answer": [1.5, float("nan")]})
    pyarrow.parquet.write_table(table, path)
    assert [question.gold for question in load_questions(path)] == ["1.5", None]
    with pytest.raises(DataError, match="Parquet"):
        load(tmp_path, "not parquet", "bad.parquet")


@pytest.mark.parametrize(
    ("module", "path", "install"),
    [("pyarrow", "q.parquet", "pip install pyarrow"), ("datasets", "hub:a/b:train", "pip install datasets")],
)
def test_a_missing_package_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, module: str, path: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SetupError, match=install):
        load_questions(path)


def test_hub_questions_name_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def load_dataset(*names: str, split: str) -> list[dict[str, str]]:
        calls.append((*names, split))
        if names[0] == "gone":
            raise ConnectionError("no\nnetwork")
        return [{"question": "2?", "answer": "two\n#### 2"}]

    fake = types.ModuleType("datasets")
    monkeypatch.setattr(fake, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert load_questions("hub:openai/gsm8k:main:train")[0].gold == "2"
    load_questions("hub:a/b:test")
    assert calls == [("openai/gsm8k", "main", "train"), ("a/b", "test")]
    with pytest.raises(SetupError, match=r"cannot load hub:gone:x: [A-Za-z]+Error: no network"):
        load_questions("hub:gone:x")
    with pytest.raises(UsageError):
        load_questions("hub:a/b")


@pytest.mark.parametrize(
    ("content", "words_"),
    [
        ("", "holds no questions"),
        (" \n\n", "holds no questions"),
        ("[]", "holds no questions"),
        ('{"question": "1?"}\n{"question": ', r":2: not a JSON object"),
        ('{"question": "1?"}\n{"text": "2?"}', r":2: no 'question' .*'text'.*--question_key"),
        ('{"question": "1?"}\n["2?"]', r":2: not a JSON object"),
        ('[{"question": "1?"}, {"text": "2?"}]', r"row 2: no 'question'"),
        ('[{"question": "1?"}', "not a JSON object"),
        ('{"question": "  "}', r":1: the question is empty"),
        ('{"question": 12}', r":1: the question is not text"),
        ('{"question": 1.5}', r":1: the question is not text"),
        ('{"question": null}', r":1: no 'question'"),
        ('{"question": "a\\u0000b"}', r":1: .*control character '\\x00'"),
        ('{"question": "\\ud800"}', r":1: not a JSON object"),
        ('{"question": "1?", "answer": [1]}', r":1: 'answer' is neither text nor a number"),
        ('{"question": "1?", "answer": "see ####"}', r":1: nothing stands after"),
        ('{"question": "1?", "choices": "ab"}', r":1: choices are not a list"),
        ('{"question": "1?", "answer": NaN}', r":1: not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        (b'{"question": "\xff"}', r":1: not UTF-8"),
        ('{"question": "1?"}'.encode("utf-16"), "not"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, content: str | bytes, words_: str) -> None:
    with pytest.raises(DataError, match=words_) as refused:
        load(tmp_path, content)
    assert "q.jsonl" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    ["", "answer\n2\n", "question\n1,2\n", 'question\n"open', b"question\n\xff\n", "question\n" + "x" * 200_000],
)
def test_a_bad_csv_is_one_sentence(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(DataError, match=r"q\.csv"):
        load(tmp_path, content, "q.csv")


def test_missing_files_and_directories_are_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path, tmp_path / "none.csv"):
        with pytest.raises(DataError, match="cannot read"):
            load_questions(path)


def test_a_huge_number_is_text_or_an_error_of_ours(tmp_path: Path) -> None:
    for answer in ("9" * 5000, "1" + "0" * 400 + ".5", "1e999999999"):
        with contextlib.suppress(CotdistillError):
            assert load(tmp_path, f'{{"question": "1?", "answer": {answer}}}')[0].gold == answer


def test_gold_is_what_follows_the_hashes() -> None:
    assert gold_part("48/2 = 24\n#### 72") == "72"
    assert gold_part(" 60 km/h ") == "60 km/h"


# overlap


def test_words_ignore_spelling_but_not_arithmetic() -> None:
    def of(text: str) -> tuple[str, ...]:
        return words(Question("q", text))

    assert of("What's the well-known  “sum” of 2 − 3?") == of("whats the WELL KNOWN sum, of 2 - 3")
    assert len({of(text) for text in ("3 - 5", "3 + 5", "3 * 5", "35", "3^5", "5 - 3", "3 < 5")}) == 7
    assert of("कि") != of("की")
    assert words(Question("q", "Which?", choices=("a",))) != words(Question("q", "Which?", choices=("b",)))


def test_overlap_finds_exact_questions_and_counts_runs_of_eight_words() -> None:
    train = asked("a b c d e f g h i", "What is 2 + 2?")
    test = [Question("t1", "what is 2+2"), Question("t2", "a b c d e f g h x"), Question("t3", "new")]
    found = overlap(train, test)
    assert found.exact == ("t1",)
    assert found.shared_ngrams == 2 / 4
    assert overlap([], []).shared_ngrams == 0


def test_exact_overlap_stops_the_run_and_lists_ids() -> None:
    with pytest.raises(DataError, match=r"^1 test questions .*\(q0\)"):
        refuse_overlap(asked("What is 2 + 2?"), asked("what is 2+2"))
    assert refuse_overlap(asked("What is 2 + 2?"), asked("What is 2 + 3?")).exact == ()


# keys


@pytest.mark.parametrize(("name", "content"), [
    ("q.jsonl", lines({"question": "2?", "answer": "2", "Gold": "3"})), ("q.csv", "question,answer,Gold\n2?,2,3\n"),
])  # fmt: skip
def test_an_answer_key_that_no_row_has_is_a_usage_error_naming_those_there_are(tmp_path, name, content):
    with pytest.raises(UsageError, match=r"has 'gold' \(their keys: 'question', 'answer', 'Gold'\)"):
        load(tmp_path, content, name, answer_key="gold")


def test_an_answer_key_that_some_rows_have_is_enough_and_the_usual_one_may_be_absent(tmp_path, caplog):
    loaded = load(tmp_path, lines({"question": "2?"}, {"question": "3?", "gold": "3"}), answer_key="gold")
    assert [question.gold for question in loaded] == [None, "3"]
    assert load(tmp_path, lines({"question": "2?"}))[0].gold is None
    assert not caplog.text


@pytest.mark.parametrize("key", ["Answer", " answer "])
def test_a_key_that_differs_from_answer_by_case_or_blanks_is_said(tmp_path, caplog, key):
    assert load(tmp_path, lines({"question": "2?", key: "2"}))[0].gold is None
    assert f"{key!r} is not taken for 'answer'; --answer_key" in caplog.text
    caplog.clear()
    load(tmp_path, lines({"question": "2?", "answer": "2", key: "3"}))
    assert not caplog.text


def test_a_key_that_differs_from_question_by_case_or_blanks_is_said(tmp_path):
    with pytest.raises(DataError, match="add it or use --question_key 'Question '"):
        load(tmp_path, lines({"Question ": "2?"}))


def test_blanks_around_the_names_of_csv_columns_do_not_count(tmp_path):
    assert load(tmp_path, "question, answer \n2?,2\n", "q.csv")[0].gold == "2"
    with pytest.raises(DataError, match=r"q\.csv:1: two columns are called 'answer'"):
        load(tmp_path, "question,answer,answer \n2?,2,3\n", "q.csv")


# formats


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.tsv", "question\tanswer\n2?\t2\n"), ("q.txt", "What is 2?\n"),
        ("q.json", json.dumps({"question": "2?"}, indent=2)), ("q.jsonl", '{"question": "2?",\n"answer": "2"}\n'),
    ],
)  # fmt: skip
def test_a_file_that_begins_in_no_format_of_ours_is_told_which_there_are(tmp_path, name, content):
    with pytest.raises(DataError, match=rf"{name}:1: not a JSON object .*JSON Lines \(one object a line\), a JSON array"):
        load(tmp_path, content, name)


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_utf16_is_called_by_its_name(tmp_path, name, order):
    with pytest.raises(DataError, match="this is UTF-16 text, not UTF-8; save the file as UTF-8"):
        load(tmp_path, "\ufeffquestion,answer\n2?,2\n".encode(order), name)
