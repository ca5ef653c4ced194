"""Symbolic answers: compared in child processes that a hostile row can kill, and nothing else."""

import asyncio
import importlib.util
import logging
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cotdistill.answer import read_answer
from cotdistill.grade import Grade, grade
from cotdistill.question import Question
from cotdistill.reading import symbolic
from cotdistill.reading.symbolic import Pool, same_symbolic
from cotdistill.reading.symbolic_worker import _HARMLESS

needs_extra = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="needs the math extra")
BOMB = "9^{9^{9^9}}"
ROWS = [
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True), ("2x + 3", "3 + 2x", True), ("2x + 3", "2x + 4", False),
    ("(1, 2]", r"\left(1, 2\right]", True), ("(1, 2]", "[1, 2)", False), ("(1, 2)", "[1, 2]", False),
    (r"(-\infty, 3]", "(-inf, 3]", True), ("x > 3", "3 < x", True), ("x > 3", r"x \ge 3", False),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1 & 2 \\ 3 & 4\end{bmatrix}", True),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1 & 2 \\ 3 & 5\end{bmatrix}", False),
    ("x = √2", r"$\sqrt{2}$", True), (r"\sqrt{2}", "1.414", False), (r"\boxed{\sqrt{16}}", "4", True), ("2^10", "1024", True),
    ("x^2 - 1", "(x-1)(x+1)", True), (r"3\pi", "3*pi", True), (r"\{1, \sqrt2\}", r"\{\sqrt 2, 1\}", True),
    (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)", True), ("sin(x)^2 + cos(x)^2", "1", True),
    (r"3\sqrt{2}\text{ cm}", r"3\sqrt2", True), (r"\sqrt{50\%}", r"\sqrt{50}", None), ("the root of two", r"\sqrt2", None),
    (r"$\sqrt{2}$ or $\sqrt{3}$", r"\sqrt3", None), ("", "", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    pool = Pool(1)
    yield pool
    pool.close()


@needs_extra
@pytest.mark.parametrize(("a", "b", "same"), ROWS)
def test_symbolic_answers_compare_by_meaning_in_both_directions(pool, a, b, same):
    assert pool.same(a, b) is same
    assert pool.same(b, a) is same


@needs_extra
def test_a_hostile_row_costs_at_most_its_cap_and_the_pool_survives():
    pool = Pool(1, seconds=1)
    try:
        assert pool.same("2x", "x + x") is True
        first = pool._idle[0].process
        start = time.monotonic()
        assert pool.same(BOMB, "1") is None
        assert time.monotonic() - start < 10
        assert first.poll() is not None
        assert pool.same("2x", "x + x") is True
        assert pool._idle[0].process.pid != first.pid
    finally:
        pool.close()


@needs_extra
def test_hostile_rows_do_not_grow_this_process(pool):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory as it is now is read from /proc")

    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20  # MB

    before = used()
    rows = ["100000!", "10^{10^9}", "(" * 200, "\\frac{" * 60, "9" * 400, "x^{" * 99, "\\sqrt{" * 66, "1+" * 199, "y'" * 150]
    for row in rows:
        pool.same(row, "1")
        assert used() - before < 50
    assert pool.same("2x", "x + x") is True


@needs_extra
def test_a_child_without_enough_memory_gives_no_answer_and_says_so(caplog):
    pool = Pool(1, memory=30 << 20)
    try:
        assert pool.same("2x", "x + x") is None
        assert "cannot start" in caplog.text
    finally:
        pool.close()


@pytest.mark.parametrize(
    "text", ["__import__('os').system('ls')", "().__class__.__base__.__subclasses__()", "(lambda: 1)()", "x" * 401, "x\0y"]
)
def test_programs_and_long_texts_never_reach_a_child(text):
    pool = Pool(1)
    assert pool.same(text, "1") is None
    assert pool._idle == []


@pytest.mark.parametrize("code", ["__import__ ('os')", "Integer (9 )**Integer (9 )", "f (1 )", "Symbol ('x' ).free_symbols", "x .y"])
def test_sympy_may_evaluate_numbers_and_names_only(code):
    assert not _HARMLESS.fullmatch(code)
    assert _HARMLESS.fullmatch("Integer (3 )")
    assert _HARMLESS.fullmatch("Float ('1.5' )")


def verdicts(_: int = 0) -> list[bool | None]:
    return [same_symbolic(a, b) for a, b, _ in ROWS[:6]]


async def from_asyncio() -> list[bool | None]:
    return await asyncio.gather(*(asyncio.to_thread(same_symbolic, a, b) for a, b, _ in ROWS[:6]))


@needs_extra
def test_every_thread_process_and_event_loop_gets_the_same_answers():
    here = [same for *_, same in ROWS[:6]]
    assert verdicts() == here
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(verdicts, range(6))) == [here] * 6
    assert asyncio.run(from_asyncio()) == here
    for method in ("spawn", "fork"):
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as processes:
            assert processes.submit(verdicts).result() == here


@needs_extra
def test_sympy_is_never_imported_here():
    code = (
        "import sys; from cotdistill.reading.symbolic import same_symbolic; assert same_symbolic('2x', 'x + x') is True;"
        "assert not {'sympy', 'math_verify'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_nothing_is_said_but_what_to_install_and_only_once(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    symbolic.available.cache_clear()
    try:
        assert same_symbolic("2x", "x + x") is None
        assert same_symbolic("2x", "2x") is None
        assert caplog.text.count('pip install math-verify') == 1
    finally:
        symbolic.available.cache_clear()


@pytest.mark.parametrize("gold", ["(1, 2]", "[0, 1)", r"(-\infty, 3)", "(0, inf)", r"\{\sqrt{2}, 1\}", r"\sqrt{2}", "2x + 3"])
def test_symbolic_golds_are_too_complex_for_the_pure_reader(gold):
    assert read_answer(gold).status == "too_complex"


def test_grading_asks_the_comparator_it_is_given_and_only_for_symbolic_golds():
    asked = []

    def says_yes(a: str, b: str) -> bool | None:
        asked.append((a, b))
        return True

    root = Question("q", "?", r"\sqrt{8}")
    assert grade(r"Final Answer: 2\sqrt{2}", "stop", root) == Grade(r"2\sqrt{2}", "too_complex", False, "too_complex", False)
    assert grade("Final Answer: 4", "stop", root).status == "too_complex"
    assert grade(r"Final Answer: 2\sqrt{2}", "stop", root, symbolic=says_yes) == Grade(r"2\sqrt{2}", "marker", True, "marker", True)
    assert asked == [(r"2\sqrt{2}", r"\sqrt{8}")]
    for text in (r"Final Answer: \sqrt{16}", "Final Answer: 1 + 3", "Final Answer: 9**9**9"):
        assert grade(text, "stop", Question("q", "?", "4"), symbolic=says_yes).status == "too_complex"
    assert grade("Final Answer: 5", "stop", Question("q", "?", "4"), symbolic=says_yes).correct is False
    assert grade("no idea", "stop", root, symbolic=says_yes).correct is False
    assert grade("Final Answer: 5", "stop", root, symbolic=lambda a, b: None).status == "too_complex"
    assert len(asked) == 1
