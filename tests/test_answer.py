"""Finding an answer in a text and comparing it: what the corpus and the property tests promise."""

import asyncio
import builtins
import json
import re
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotdistill.answer import find_answer, kind_of, read_answer, same_answer
from cotdistill.grade import grade
from cotdistill.question import Question
from cotdistill.reading.kinds import KINDS
from cotdistill.reading.plain import plain
from cotdistill.reading.quantity import Quantity, read_number
from cotdistill.reading.short_text import normal_text
from cotdistill.reading.units import unit_after, units_clash
from cotdistill.steps import check_steps
from cotdistill.verdict import judge_gold

CORPUS = (Path(__file__).parent / "data/answers.jsonl").read_text("utf-8")
ROWS = [json.loads(line) for line in CORPUS.split("\n") if line]  # splitlines would cut a row at U+2028


def question(row: dict) -> Question:
    choices = tuple(row["choices"]) if "choices" in row else None
    return Question("q", "?", row["gold"], row.get("kind"), None, choices)


def outcome(row: dict) -> str:
    marks = grade(row["text"], "stop", question(row))
    if marks.correct_strict:
        return "correct"
    return "wrong" if marks.status_strict == "marker" else marks.status_strict


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["why"])
def test_the_corpus_reads_as_its_authors_say(row):
    assert outcome(row) == row["expect"]


def test_every_gold_of_the_corpus_can_be_found_again():
    assert [reason for row in ROWS if (reason := judge_gold(question(row)))] == []


def test_the_corpus_is_large_varied_and_covers_every_kind_and_outcome():
    forms = {re.sub("[0-9]+", "0", f"{row['text']}\0{row['gold']}\0{row.get('choices')}") for row in ROWS}
    kinds = Counter(row.get("kind") or kind_of(row["gold"], row.get("choices")) for row in ROWS)
    assert len(ROWS) >= 400
    assert len(forms) >= 250
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 25
    assert {row["expect"] for row in ROWS} == {"correct", "wrong", "no_answer", "ambiguous", "too_complex"}
    assert all(row["why"] for row in ROWS)
    assert len({(row["text"], row["gold"], str(row.get("choices"))) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "kind", "answer", "source"),
    [
        ("She has 12 + 3 = 15 apples left.", "number", "15 apples", "last_number"),
        ("So the temperature is -3", "number", "-3", "last_number"),
        ("That leaves 5-3 = 2", "number", "2", "last_number"),
        ("Ergebnis => 36", "number", "36", "last_number"),
        ("It is on page 5", "number", "5", "last_number"),
        ("3 boxes.\n**Total:** 36", "number", "36", "last_number"),
        ("- **Boxes:** 3\n- **Total cost:** $36", "number", "$36", "last_number"),
        ("A: Each box has 12 apples.\nWith 3 boxes he has 12 * 3 = 36.", "number", "36", "last_number"),
        ("She pays **$36** for the 12 glasses.", "number", "$36", "last_number"),
        ("Ann needs **36 minutes** to read the 12 pages.", "number", "36 minutes", "last_number"),
        ("Each of the **3** boxes holds 12 apples, so 36 in all.", "number", "36", "last_number"),
        ("After he gave **12** apples to Tom, he has 36.", "number", "36", "last_number"),
        ("**3 boxes:** 36", "number", "36", "last_number"),
        ("It is not **36** but 12", "number", "12", "last_number"),
        ("12 个苹果，所以一共是17个。", "number", "17个", "last_number"),
        ("It must be (C), not more.", "choice", "(C)", "last_choice"),
        ("Option B needs no guard, so the best option is A.", "choice", "A", "last_choice"),
        ("Option B helps against hepatitis A.", "choice", "Option B", "last_choice"),
        ("It is (B).\nOptions:\nA: 12", "choice", "(B)", "last_choice"),
        ("The coin was not flipped, so yes it is", "boolean", "yes", "last_yes_no"),
        ('The letters give "yajo", that is all.', "text", "yajo", "quoted"),
        ("The letters give **yajo** in the end.", "text", "yajo", "bold"),
        ("Put together they give yajo.", "text", "yajo", "last_word"),
        ('The last letter of "Page" is "e".\n\nTogether: **ye**', "text", "ye", "bold"),
        ('The last letter of "Page" is "e". So we get ye.', "text", "ye", "last_word"),
        ('They give "yajo".\n\n**Note:** case does not matter.', "text", "yajo", "quoted"),
        ("He was born on March 5, 2024, they say.", "date", "March 5, 2024", "last_date"),
        ("The train leaves at 3:05 PM every day of the week.", "time", "3:05 PM", "last_time"),
        ("So we keep ['89.573', '30'] in the list.", "list", "['89.573', '30']", "last_list"),
        ("36", "number", "36", "bare"),
        ("I do not know.", "number", "", ""),
    ],
)
def test_the_lenient_reading_says_what_it_took(text, kind, answer, source):
    found = find_answer(text, kind, fallback=True)
    assert (found.text, found.source) == (answer, source)
    assert source == "bare" or find_answer(text, kind).status == "no_answer"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("So the answer cannot be 5", "number"), ("That leaves 5-3", "number"), ("so it is 3 * 5", "number"),
        ("so x = √5", "number"), ("so it is 5!", "number"), ("so she has 1,5", "number"), ("The time is 3:05", "number"),
        ("he needed 3. So it is 1_000", "number"), ("so it is f(5)", "number"), ("5 dozen in all", "number"),
        ("The price** 36", "number"), ("so tax* 5", "number"), ("所以不是17个。", "number"), ("It cannot be A.", "choice"),
        ("It can't be (B).", "choice"), ("It is not true", "boolean"), ('so "yajo" is wrong', "text"),
        ("It could be (B) or (C).", "choice"), ("Both B and C fit.", "choice"), ("Please answer yes or no.", "boolean"), ("Options:\n- Yes\n- No", "boolean"),
        ("two days after March 5, 2024, then", "date"), ("it starts 10 minutes after 3:05 PM", "time"),
    ],
)  # fmt: skip
def test_the_lenient_reading_is_ambiguous_where_its_neighbours_make_it_something_else(text, kind):
    found = find_answer(text, kind, fallback=True)
    assert (found.status, found.value, found.source) == ("ambiguous", None, "")


def verdicts(gold: str, *texts: str) -> set[str]:
    """What the strict reading says of each text behind the marker."""
    return {outcome({"text": f"Final Answer: {text}", "gold": gold}) for text in texts}


def test_1_separators_and_money_are_read_in_every_written_form():
    assert verdicts("8000", "8,000", "$8{,}000", "8 000", "8\\,000", "\\$8,\\!000", "$8,000.00", "8000.", "8,000, altogether") == {"correct"}
    assert verdicts("123", "1,2,3") == {"ambiguous"}


def test_2_the_sign_is_part_of_the_number_in_every_spelling_of_minus():
    assert verdicts("-3", "-3", "−3", "–3", "x = - 3", "\\boxed{−3}") == {"correct"}
    assert verdicts("-3", "3") == verdicts("3", "-3") == {"wrong"}
    assert verdicts("3", "minus 3", "negative 3", "3 degrees below zero") == {"ambiguous"}
    assert verdicts("4", "between 3-5, so 4") == {"correct"}


def test_3_the_last_complete_marker_wins_over_retracted_and_unfinished_ones():
    flood = "".join(f"\\boxed{{{n}}} " for n in range(400))
    assert find_answer("First \\boxed{2}. Wait, \\boxed{3}").text == find_answer(flood + "\\boxed{3}").text == "3"
    assert find_answer("It is \\boxed{36").status == "no_answer"
    assert find_answer("\\boxed{\\frac{\\text{3}}{4}}").value == Quantity(Fraction(3, 4))
    assert find_answer("Final Answer: 4\nFinal Answer: [your answer here]").text == "4"


@pytest.mark.parametrize("stop", ["Question:", "Q:", "question:", " Question:", "Question 2:", "**Question:**", "User:"])
def test_4_a_run_on_is_cut_and_flagged_however_it_is_written(stop):
    found = find_answer(f"#### 42\n{stop} Ann has 3.\n#### 7")
    assert (found.text, found.flags) == ("42", ("run_on",))


def test_5_percent_needs_percent_and_a_unit_on_one_side_does_not_matter():
    assert verdicts("50%", "50%", "50 percent") == {"correct"}
    assert verdicts("50", "50%") == verdicts("0.5", "50%") == {"ambiguous"}
    assert verdicts("10", "10 cm") == verdicts("5", "5 apples") == verdicts("74", "74^\\circ") == {"correct"}


def test_6_every_form_of_a_number_is_exact():
    assert verdicts("0.5", "1/2", ".5", "0.50", "½") == verdicts("1000", "1e3", "10^3", "１０００", "01000") == {"correct"}
    assert verdicts("1/3", "0.333") == verdicts(str(2**53), str(2**53 + 1)) == {"wrong"}


@pytest.mark.parametrize("text", ["", " \n", "<think>36</think>", "I cannot.", "w 36 " * 200_000, "\0" * 1000, "it is 36"])
def test_7_what_names_no_answer_has_none_and_no_stray_number_is_taken_for_it(text):
    assert find_answer(text, "number").status == "no_answer"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Final Answer: 36 apples.", "number"),
        ("Final Answer: The total is 15 dollars", "number"),
        ("Final Answer: Yes, it is.", "boolean"),
        ("Final Answer: (B) 40 km", "choice"),
        ("Final Answer: March 5, 2024", "date"),
        ("Final Answer: 3:05 PM", "time"),
        ("Final Answer: [1, 2]", "list"),
        ("Final Answer: x = 1, y = 2", "list"),
        ("Final Answer: Paris, France", "text"),
    ],
)
def test_the_kind_is_inferred_from_marked_text_without_a_gold(text, kind):
    found = find_answer(text)
    assert (found.kind, found.status) == (kind, "found")


def test_an_answer_carries_its_text_and_its_meaning():
    found = find_answer("so 36.\nFinal Answer: 36 apples.")
    assert found.text == "36 apples."
    assert found.value == Quantity(Fraction(36), "apple")
    assert (found.source, found.flags) == ("marker", ())
    assert find_answer("#### 42\nQuestion: next\n#### 7").flags == ("run_on",)


def test_users_may_name_their_own_marker():
    assert find_answer("Ergebnis: 36", markers=("Ergebnis:",)).text == "36"
    assert find_answer("Ergebnis: 36").status == "no_answer"


def test_an_unknown_kind_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="number, choice"):
        find_answer("Final Answer: 3", "integer")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("60 km/h", "60", True), ("60 km/h", "60 mph", False), ("50%", "50", False), ("50%", "50 percent", True),
        ("$9.50", "9.5", True), ("1/3", "0.333", False), ("{1, 2}", "{2, 1}", True), ("[1, 2]", "[2, 1]", False),
        ("Yes", "yes.", True), ("3:05 PM", "15:05", True), ("5 March 2024", "2024-03-05", True), ("(B)", "B", True),
        ("the Yajo!", "yajo", True), ("2x + 3", "2x + 3", False), ("", "", False), ("not 72", "72", False), ("not B", "B", False),
        ("\\boxed{\\$9{,}500}", "9500", True), ("3 : 4", "3:4", True), ("US$5", "5 US dollars", True),
    ],
)  # fmt: skip
def test_strings_compare_by_meaning_in_both_directions(a, b, same):
    assert same_answer(a, b) is same
    assert same_answer(b, a) is same


def test_choices_may_be_any_sequence_and_decide_the_kind():
    assert find_answer("Final Answer: 40 km/h", choices=["20 km/h", "40 km/h"]).value == "B"
    assert read_answer("20 km/h", choices=["20 km/h", "40 km/h"]).value == "A"
    assert kind_of("20 km/h", ["20 km/h", "40 km/h"]) == "choice"


def test_tolerance_is_only_used_when_given():
    assert same_answer("1/3", "0.333", tolerance=0.001)
    assert not same_answer("1/3", "0.333", tolerance=0.0001)


# --- properties

NUMBERS = st.integers(-(10**12), 10**12)
FORMS = st.sampled_from(
    ["{}", "{:,}", "{}.0", "{}.", "${}", "{} apples", "{} km/h", "x = {}", "\\boxed{{{}}}", "{}%", "**{}**"]
)
STRINGS = st.one_of(
    st.text(max_size=40), st.sampled_from([row["gold"] for row in ROWS]), st.builds(str.format, FORMS, NUMBERS)
)


@settings(max_examples=300, deadline=None)
@given(STRINGS)
def test_same_answer_is_reflexive_wherever_there_is_a_value(text):
    answer = read_answer(text)
    assert same_answer(text, text) == (answer.value is not None)
    assert same_answer(answer, answer) == (answer.value is not None)


@settings(max_examples=500, deadline=None)
@given(STRINGS, STRINGS)
def test_same_answer_is_symmetric(a, b):
    assert same_answer(a, b) == same_answer(b, a)
    assert same_answer(read_answer(a), b) == same_answer(b, read_answer(a))


@settings(max_examples=300, deadline=None)
@given(NUMBERS, FORMS, FORMS, st.sampled_from([-1, 1, 10, -100]))
def test_a_number_that_is_off_is_never_equal_in_any_form(number, form, other, off):
    if abs(number) >= 1000 or "," not in form + other:
        assert not same_answer(form.format(number), other.format(number + off))
    assert same_answer(form.format(number), form.format(number))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
@example("⁻")
def test_text_normalisation_is_idempotent(text):
    assert normal_text(normal_text(text)) == normal_text(text)


def test_ten_thousand_pairs_of_the_corpus_compare_alike_in_both_directions():
    random = Random(9)
    answers = [read_answer(row["gold"], row.get("kind", "auto"), row.get("choices")) for row in ROWS]
    answers += [find_answer(row["text"], answer.kind, choices=row.get("choices")) for row, answer in zip(ROWS, answers, strict=True)]
    for _ in range(10_000):
        a, b = random.choice(answers), random.choice(answers)
        assert same_answer(a, b) == same_answer(b, a)
        assert same_answer(a, a) == (a.value is not None)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, st.sampled_from(["{} km", "{}%", "${}", "{:,} apples", "-{}", "{}/7", "{} 1/2", "{}e2", "{}.25"]))
def test_a_number_read_and_written_again_is_the_same(number, form):
    value = read_answer(form.format(abs(number)), "number").value
    assert isinstance(value, Quantity)
    assert read_answer(f"{value.number}{'%' if value.percent else ''}", "number").value == Quantity(value.number, "", value.percent)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["auto", *KINDS]), st.booleans())
def test_no_text_raises(text, kind, fallback):
    find_answer(text, kind, fallback=fallback)
    marked = find_answer(f"Final Answer: {text}", kind, fallback=fallback)
    assert same_answer(marked, marked) == (marked.value is not None)
    read_answer(text, kind)
    read_answer(text, kind, ["20 km/h", text, "40 km/h"])
    same_answer(text, "36")


# What texts that break parsers are made of.
PIECES = st.sampled_from([
    "1", "36", "1,234", ".5", "-", "−", "/", "%", "$", "\\frac{", "\\boxed{", "}", "{", "\\$", "^", "(", ")", "[", "]", "=", ",", ";",
    " ", "\n", "**", "`", "'", '"', "####", "Final Answer:", "A:", "The answer is ", "yes", "no", "or", "and", "x", "e", "km/h", "apples",
    "March", "5th", "3:05", "PM", "½", "²", "٣", "\u200b", "\u2028", "\x00", "\\text{", "<think>", "</think>", "\nQuestion:", "(B)", "__",
])  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join), st.sampled_from(["auto", *KINDS]), st.booleans())
def test_no_mixture_of_what_answers_are_made_of_raises(text, kind, fallback):
    found = find_answer(text, kind, fallback=fallback)
    assert (found.value is not None) == (found.status == "found")
    assert same_answer(found, found) == (found.value is not None)
    assert same_answer(text, text) == (read_answer(text).value is not None)
    check_steps(text)


# --- hostile text

BOMBS = {
    "power tower": "Final Answer: 9**9**9", "power in a box": "\\boxed{10^{10^9}}", "factorial": "#### 100000!",
    "5,000 digits": "Final Answer: " + "9" * 5000, "100,000 digits": "Final Answer: " + "9" * 100_000,
    "digits and commas": "Final Answer: 1" + ",234" * 40_000, "3,000 brackets": "Final Answer: " + "(" * 3000,
    "10k dollars": "Final Answer: " + "$" * 10_000, "regex bait": "Final Answer: " + "a" * 30_000 + "!",
    "open boxes": "\\boxed{" * 50_000, "empty boxes": "\\boxed{}" * 50_000, "markers": "The answer is " * 20_000,
    "empty markers": "Final Answer:\n" * 20_000, "hashes": "#### " * 20_000, "spaces": " " * 1_000_000,
    "a megabyte": "word " * 200_000, "NUL": "\0" * 1_000_000, "thinking": "<think>" * 100_000,
    "fractions": "Final Answer: " + "\\frac{" * 5000, "list": "Final Answer: " + "1," * 50_000,
    "ligatures": "\ufdfa" * 16_000, "negations": "not " * 5000, "words of scale": "Final Answer: " + "million " * 45,
}  # fmt: skip


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_decided_in_50_milliseconds(text):
    def once(fallback: bool) -> float:
        start = time.thread_time()
        find_answer(text, "number", fallback=fallback)
        return time.thread_time() - start

    assert find_answer(text, "number").status in ("no_answer", "too_complex")
    assert min(once(False) for _ in range(3)) < 0.05
    assert min(once(True) for _ in range(3)) < 0.05


def test_code_in_an_answer_is_never_run(monkeypatch, tmp_path):
    sympy = pytest.importorskip("sympy")
    marker = tmp_path / "marker"
    payloads = [
        f"__import__('os').system('touch {marker}')",
        "().__class__.__base__.__subclasses__()",
        f"(lambda: open('{marker}', 'w'))()",
        f"[open(p, 'w') for p in ['{marker}']]",
    ]

    def refuse(*args, **kwargs):
        raise AssertionError("model text was evaluated")

    texts = [form.format(p) for p in payloads for form in ("{}", "Final Answer: {}", "#### {}", "\\boxed{{{}}}")]
    with monkeypatch.context() as patched:
        for name in ("eval", "exec", "compile"):
            patched.setattr(builtins, name, refuse)
        patched.setattr(sympy, "sympify", refuse)
        patched.setattr(sympy.parsing.sympy_parser, "parse_expr", refuse)
        for row in ROWS:
            outcome(row)
        statuses = {find_answer(text, kind).status for text in texts for kind in ("auto", "number", "text")}
    assert statuses == {"no_answer"}
    assert not marker.exists()


def outcomes() -> list[str]:
    return [outcome(row) for row in THOUSAND]


THOUSAND = (ROWS * 2)[:1000]


def test_every_thread_process_and_event_loop_reads_alike():
    here = outcomes()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outcome, THOUSAND)) == here
    assert len(here) == 1000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(outcomes).result() == here

    async def inside() -> list[str]:
        return outcomes()

    assert asyncio.run(inside()) == here


# --- the parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("−$9{,}500", "-$9,500"), ("1\\frac{1}{2} cups", "1 1/2 cups"), ("５０\\%", "50%"), ("12 × 4 ÷ 3", "12 * 4 / 3"),
        ("5²", "5^2"), ("2¹⁰", "2^10"), ("10⁻³", "10^-3"), ("2½", "2 1/2"), ("$36$", "36"), ("$5 and $6", "$5 and $6"), ("\\$5", "$5"),
    ],
)  # fmt: skip
def test_lookalikes_get_one_spelling(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("$5 per hour", 5, "dollar/hour"), ("3 1/2 cups", Fraction(7, 2), "cup"), ("2 hours 30 min", Fraction(5, 2), "hour"),
        ("6 feet 2 inches", Fraction(37, 6), "foot"), ("1.5 x 10^3 kg", 1500, "kg"), ("80k", 80_000, ""),
    ],
)  # fmt: skip
def test_quantities_keep_number_and_unit_apart(text, number, unit):
    assert read_number(text) == ("found", Quantity(Fraction(number), unit))


@pytest.mark.parametrize("pair", ["cookies cookie", "horses horse", "shoes shoe", "movies movie", "boxes box", "glasses glass", "people person"])
def test_singular_and_plural_of_a_noun_meet(pair):
    plural, noun = pair.split()
    assert unit_after(f"5 {plural}", 1)[0] == unit_after(f"5 {noun}", 1)[0]


def test_units_have_one_spelling_and_clash_only_when_both_are_stated():
    assert unit_after("60 kilometres per hour", 2)[0] == unit_after("60 km/h", 2)[0] == "km/hour"
    assert unit_after("36 red apples left", 2)[0] == "red apple"
    assert units_clash("km/hour", "mile/hour")
    assert not units_clash("km/hour", "")
    assert not units_clash("red apple", "apple")
