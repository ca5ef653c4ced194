"""Whatever bytes come in, what comes out is a result or one of our own errors in one sentence.

The same examples on every run; COTDISTILL_FUZZ=5000 tries that many new ones a target, and ``make fuzz`` goes on from
there guided by coverage.
"""

import copy
import os
import random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotdistill.errors import CotdistillError
from fuzz_targets import SEEDS, TARGETS, recipe_data

LONGER = int(os.environ.get("COTDISTILL_FUZZ", "0"))
bounded = settings(max_examples=LONGER or 150, derandomize=not LONGER, deadline=None, database=None,
                   suppress_health_check=list(HealthCheck))  # fmt: skip

# What readers trip over: separators, deep nesting, torn characters, numbers that no machine holds.
TOKENS = (
    b"", b"\n", b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b'"', b"{", b"}",
    b"[", b"]", b",", b":", b"{}", b"null", b"true", b"-", b"1e999", b"NaN", b"9" * 40, b"9" * 5000, b"0.1", b"[" * 2000,
    b'{"id": 1}', b'"id": "q1#0", ', b'"id": "", ', b'"new": 1, ', b'"question": 7, ', b'"answer": "####", ',
    b'"finish": "x", ', b'"choices": [1, null], ', b"\x1e", b"####", b"\\boxed{", b"Final Answer:", b"<think>", b"=", b"/0",
    b"%", b"1/", b"^(", b"\xd9\xa3", b"\xc2\xbd", b"&a ", b"*a", b"<<: *a", b"!!python/name:os.system ", b"!!int x", b"2024-99-99", b"!!set {a}",
    b"\t", b"? ", b"- ", b"| ", b".nan", b"-.inf", b"\\", b"'", b"#", b"0x", b"1_0", b"1:99", b"=\n", b"!!timestamp x", b"!!binary x",
)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good file with pieces cut out, doubled or replaced; or just anything."""
    data = draw(st.sampled_from(seeds)) if seeds else b""
    if not data or draw(st.integers(0, 9)) == 0:
        return draw(st.lists(st.sampled_from(TOKENS) | st.binary(max_size=20), max_size=30).map(b"".join))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        put = draw(st.sampled_from(TOKENS) | st.binary(max_size=4) | st.just(data[start:end] * 2))
        data = data[:start] + put + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_give_a_traceback(name: str) -> None:
    @bounded
    @given(spoiled(SEEDS[name]))
    def run(data: bytes) -> None:
        held(TARGETS[name], data)

    run()


def held(target: Any, data: Any) -> None:
    try:
        target(data)
    except CotdistillError as error:
        if not str(error).strip():
            pytest.fail("an error that says nothing")


@pytest.mark.parametrize("name", [name for name in TARGETS if SEEDS[name] and name not in ("refused_journal", "report")])
def test_the_seeds_themselves_are_read(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 1, 2**31, 2**32, 2**63, 10**400]),
    st.floats(), st.text(max_size=4), st.sampled_from(["\ud800", "\x00", "..", "a/b", ".", "x" * 300, "cosine", "hub:"]),
    st.dates(), st.binary(max_size=2),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=6
)
NAMES = ("name", "models", "teacher", "engine", "server", "base_url", "questions", "seed", "file", "tasks", "size",
         "config", "generate", "sampling", "train", "lora", "r")  # fmt: skip


@bounded
@given(st.integers(0), st.lists(st.tuples(st.sampled_from(["put", "drop", "add"]), VALUES), min_size=1, max_size=3))
def test_no_data_that_is_nearly_a_recipe_gives_a_traceback(seed: int, changes: list[tuple[str, Any]]) -> None:
    draw = random.Random(seed)
    data: Any = copy.deepcopy(yaml.safe_load(SEEDS["recipe"][0]))
    for action, value in changes:
        place: Any = data
        while True:
            at = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[at], dict | list) or not place[at] or draw.random() < 0.2:
                break
            place = place[at]
        if action == "drop":
            del place[at]
        elif action == "put" or isinstance(place, list):
            place[at] = value
        else:
            place[draw.choice(NAMES)] = value
        if not place:
            break
    held(recipe_data, data)
