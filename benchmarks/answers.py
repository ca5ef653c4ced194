"""How fast answers are found and compared, and what the slowest row costs.

    python -m benchmarks.answers [--rows 20000] [--seed 0] [--repeat 5] [--output FILE]

Ordinary traces (a median of 300 characters: sums of a few steps, then a final line in one of the forms that
models use, one in ten without any) are written by this file from a seed. Three things are timed apart: finding
the answer and comparing it with gold, checking the steps, and reading the rows from JSON Lines. Rows per second
count CPU time of this process (``time.process_time``), best of ``--repeat`` runs, so that a busy machine does
not tell; wall-clock rates stand beside them. Hostile rows are timed one by one, by CPU time of the thread.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cotdistill.answer import find_answer, read_answer, same_answer
from cotdistill.reading.kinds import KINDS
from cotdistill.steps import check_steps

_NAMES = ("Ann", "Ben", "Cem", "Dana", "Eve", "Farid", "Gita", "Hugo")
_THINGS = ("apples", "tickets", "boxes", "miles", "dollars", "pages", "stickers", "cups")
_ENDS = ("Final Answer: {n}", "Final Answer: {n} {thing}", "The answer is {n}.", "#### {n}", "**Final Answer:** {n}",
         "So the answer is \\boxed{{{n}}}.", "Final Answer: ${n:,}.00", "Answer: {n} {thing}",
         "Therefore, the answer (arabic numerals) is {n}.", "That makes {n} {thing} in all.")  # fmt: skip
_STEPS = ("{name} starts with {a} {thing} and gets {b} more, so {a} + {b} = {c} {thing}.",
          "Each of the {b} friends takes {a} {thing}, which is {a} * {b} = {c} {thing} in total.",
          "First, we subtract what was given away: {a} - {b} = {c}.",
          "{name} shares them equally: {a} / {b} = {c}, and {name} keeps one part.",
          "Now think about what the question asks, which is the number of {thing} that {name} has left.")  # fmt: skip

HOSTILE = {
    "power tower": "Final Answer: 9**9**9", "factorial": "#### 100000!",
    "100,000 digits": "Final Answer: " + "9" * 100_000,
    "digits and commas": "Final Answer: 1" + ",234" * 40_000, "3,000 brackets": "Final Answer: " + "(" * 3000,
    "10,000 dollars": "Final Answer: " + "$" * 10_000, "regex bait": "Final Answer: " + "a" * 30_000 + "!",
    "open boxes": "\\boxed{" * 50_000,
    "empty boxes": "\\boxed{}" * 50_000,
    "soft markers": "The answer is " * 20_000,
    "prose behind soft markers": "The answer is 1 and 2 or 3, see below and above, of course\n" * 5000,
    "empty markers": "Final Answer:\n" * 20_000, "hashes": "#### " * 20_000, "spaces": " " * 1_000_000,
    "a megabyte": "word " * 200_000, "NUL": "\0" * 1_000_000, "thinking": "<think>" * 100_000,
    "dates": "3/5/2024 " * 5000,
    "fractions": "Final Answer: " + "\\frac{" * 5000, "list": "Final Answer: " + "1," * 50_000, "times": "3:05 " * 9000,
    "sums": "1+1=" * 5000, "long sum": "9+" * 10_000 + "9=1", "equals": "=" * 20_000, "annotations": "<<1+1=3>>" * 2000,
    "thirds": "1/3" + "+1/3" * 400 + "=5", "units": ("3 " + "apple " * 7 + "+ ") * 500 + "3=4", "quotes": "'\"`" * 7000,
    "bold": "**a" * 9000, "script digits": "Final Answer: " + "٣" * 9000, "choices": "(A) (B) " * 9000,
    "fractions of one character": "Final Answer: " + "½" * 3900, "ligatures": "\ufdfa" * 16_000,
    "ligatures behind a marker": "Final Answer: " + "\ufdfa" * 3900, "ligatures in sums": "\ufdfa" * 16_000 + "1+1=2",
    "negations": "not 5 " * 3000,
    "quoted negations": "is not 'a' " * 2000, "words before a number": "half " * 3000 + "5",
    "signs": "5 + - " * 3000, "superscripts": "2¹⁰" * 6000, "stars": "*5" * 8000, "compounds": "= 5 ft 6 in " * 1500,
}  # fmt: skip


class Row(msgspec.Struct, frozen=True):
    """One row of the file that is read: ``{"text": "... Final Answer: 36", "gold": "36"}``."""

    text: str
    gold: str


def ordinary(count: int, seed: int = 0) -> list[Row]:
    """Traces as a teacher writes them; three in four end in their gold."""
    random_ = random.Random(seed)
    rows = []
    for _ in range(count):
        name, thing = random_.choice(_NAMES), random_.choice(_THINGS)
        lines, c = [], random_.randint(2, 90)
        for _ in range(random_.choice((2, 3, 4, 4, 5, 6))):
            step, a, b = random_.choice(_STEPS), c, random_.randint(2, 12)
            c = a + b if "+" in step else a * b if "*" in step else a - b if " - " in step else a
            if "/" in step:
                a, c = a * b, a
            lines.append(step.format(name=name, thing=thing, a=a, b=b, c=c))
        lines.append(random_.choice(_ENDS).format(n=c, thing=thing))
        rows.append(Row("\n".join(lines), str(c if random_.random() < 0.75 else c + 1)))
    return rows


def judge(row: Row) -> bool:
    """Find and compare, as a verdict does; without a marker the lenient reading is taken as well."""
    gold = read_answer(row.gold)
    answer = find_answer(row.text, gold.kind)
    if not answer.source:
        answer = find_answer(row.text, gold.kind, fallback=True)
    return same_answer(answer, gold)


def rate(work: Callable[[], object], rows: int, repeat: int) -> dict[str, float]:
    """Rows a second of ``work``, by CPU time and by the clock, best of ``repeat``."""
    cpu, wall = [], []
    for _ in range(repeat):
        start = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return {"rows_per_cpu_second": round(rows / min(cpu)), "rows_per_second": round(rows / min(wall))}


def slowest(rows: list[tuple[str, str]]) -> tuple[str, float]:
    """The name of the row that takes longest, read as every kind and step by step, and its milliseconds (thread
    CPU time, best of three)."""

    def milliseconds(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(3):
            start = time.thread_time()
            work()
            taken.append(time.thread_time() - start)
        return min(taken) * 1000

    worst = "", 0.0
    for name, text in rows:
        for kind in KINDS:
            took = milliseconds(lambda text=text, kind=kind: find_answer(text, kind, fallback=True))
            worst = max(worst, (f"{name}, read as {kind}", took), key=lambda pair: pair[1])
        took = milliseconds(lambda text=text: check_steps(text))
        worst = max(worst, (f"{name}, its steps", took), key=lambda pair: pair[1])
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="rows per second of finding, comparing, checking and reading")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the numbers as JSON, too")
    options = parser.parse_args()
    rows = ordinary(options.rows, options.seed)
    lines = [msgspec.json.encode(row) for row in rows]
    decoder = msgspec.json.Decoder(Row)
    numbers: dict[str, object] = {
        "rows": len(rows),
        "median_characters": statistics.median(len(row.text) for row in rows),
        "find_and_compare": rate(lambda: [judge(row) for row in rows], len(rows), options.repeat),
        "check_steps": rate(lambda: [check_steps(row.text) for row in rows], len(rows), options.repeat),
        "read": rate(lambda: [decoder.decode(line) for line in lines], len(rows), options.repeat),
    }
    for name, chosen in {"ordinary": [(r.gold, r.text) for r in rows[:2000]], "hostile": list(HOSTILE.items())}.items():
        worst, took = slowest(chosen)
        numbers[f"slowest_{name}"] = {"row": worst, "cpu_milliseconds": round(took, 2)}
    text = json.dumps(numbers, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
