"""Our checker and Math-Verify on the same rows: where they differ, and who is right.

    python -m benchmarks.agreement [--gsm8k FILE] [--variants 2000] [--seed 0] [--show 0]

Each row is a text and a gold; a checker says whether the text gives the gold. Three sets of rows:
  corpus    tests/data/answers.jsonl. Our tests hold us to it, so it says something about Math-Verify only.
  variants  numbers in the forms that models use, right, off by one or with the sign turned. Made from a seed
            here; the truth is known by construction and neither checker has been fitted to it.
  gsm8k     full solutions (rows {"question", "answer"}) read for their gold, as they are and with the number
            behind #### changed by one.
Math-Verify is called as its README shows: ``verify(parse(gold), parse(text))``, defaults and its own timeouts, in a
child process of 4 GB that is replaced if it hangs. Needs ``pip install math-verify``.
"""

import argparse
import json
import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import msgspec

from cotdistill.grade import grade
from cotdistill.question import Question, gold_part
from cotdistill.reading.kinds import kind_of

CORPUS = Path(__file__).parent.parent / "tests/data/answers.jsonl"
HUNG = 20.0  # seconds after which a row that ignores Math-Verify's own timeouts is given up


class Row(msgspec.Struct, frozen=True):
    """One row: ``{"text": "Final Answer: 1e3", "gold": "1000", "right": true, "form": "scientific"}``."""

    text: str
    gold: str
    right: bool
    form: str
    kind: str | None = None
    choices: tuple[str, ...] | None = None


# --- the two checkers


def ours(row: Row) -> bool:
    return bool(grade(row.text, "stop", Question("q", "?", row.gold, row.kind, None, row.choices)).correct_strict)


def theirs(pair: tuple[str, str]) -> bool:
    from math_verify import parse, verify

    gold, text = pair
    return bool(verify(parse(f"${gold}$" if "\\" in gold else gold), parse(text)))


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


class MathVerify:
    """Math-Verify in a process that can be replaced."""

    def __init__(self) -> None:
        self.hung = 0
        self._start()

    def _start(self) -> None:
        self.pool = multiprocessing.get_context("spawn").Pool(1, initializer=_limit)

    def says(self, row: Row) -> bool:
        try:
            return self.pool.apply_async(theirs, [(row.gold, row.text)]).get(HUNG)
        except multiprocessing.TimeoutError:
            self.hung += 1
            self.pool.terminate()
            self._start()
        except Exception:  # an error of theirs is a row that they do not accept
            pass
        return False


# --- the rows


def corpus() -> Iterator[Row]:
    for line in CORPUS.read_text("utf-8").split("\n"):
        if line:
            row = json.loads(line)
            choices = tuple(row["choices"]) if "choices" in row else None
            kind = row.get("kind") or kind_of(row["gold"], choices)
            clear = row["expect"] if row["expect"] in ("correct", "wrong") else "neither"
            form = f"{'numbers' if kind == 'number' else 'other kinds'}, {clear}"
            yield Row(row["text"], row["gold"], row["expect"] == "correct", form, row.get("kind"), choices)


FORMS = {
    "plain": "Final Answer: {n}", "sentence": "The answer is {n}.", "box": "So \\boxed{{{n}}}.", "hashes": "#### {n}",
    "bold": "**Final Answer:** {n}", "separators": "Final Answer: {n:,}", "LaTeX separators": "\\boxed{{{latex}}}",
    "thin spaces": "Final Answer: {spaced}", "money": "Final Answer: ${n:,}.00", "escaped money": "\\boxed{{\\${n:,}}}",
    "unit": "Final Answer: {n} apples", "unit in a box": "\\boxed{{{n} \\text{{ cm}}}}",
    "Unicode minus": "Final Answer: {minus}",
    "calculation": "Final Answer: {a} + {b} = {n}", "named": "Final Answer: x = {n}", "decimals": "Final Answer: {n}.0",
    "scientific": "Final Answer: {scientific}", "retracted box": "First \\boxed{{{b}}}. Wait, \\boxed{{{n}}}.",
    "reason": "Final Answer: {n}, because {a} + {b} is {n}",
    "run-on": "#### {n}\nQuestion: What is {a} + {b}?\n#### {a}",
    "fraction": "Final Answer: {double}/2", "LaTeX fraction": "Final Answer: $\\frac{{{double}}}{{2}}$",
    "full-width digits": "Final Answer: {wide}", "thinking": "<think>Maybe \\boxed{{{b}}}</think>\\boxed{{{n}}}",
}  # fmt: skip
_WIDE = str.maketrans("0123456789", "０１２３４５６７８９")


def variants(count: int, seed: int) -> Iterator[Row]:
    random_ = random.Random(seed)
    for index in range(count):
        form = list(FORMS)[index % len(FORMS)]
        n = random_.choice([random_.randint(-999, 999), random_.randint(1000, 10**6), random_.randint(-(10**6), -1000)])
        a = random_.randint(2, 999)
        text = FORMS[form].format(
            n=n, a=a, b=n - a, double=2 * n, latex=f"{n:,}".replace(",", "{,}"), spaced=f"{n:,}".replace(",", "\u202f"),
            minus=str(n).replace("-", "−"), scientific=f"{Decimal(n).scaleb(-2)}e2", wide=str(n).translate(_WIDE),
        )  # fmt: skip
        gold, right = random_.choice([(n, True), (n, True), (n + 1, False), (-n, n == 0)])
        yield Row(text, str(gold), right, form)


def gsm8k(path: Path) -> Iterator[Row]:
    for line in path.read_text("utf-8").split("\n"):
        if line:
            answer = json.loads(line)["answer"]
            gold = gold_part(answer)
            yield Row(answer, gold, True, "as written")
            changed = str(int(gold.replace(",", "")) + 1)
            yield Row(answer.rpartition("####")[0] + "#### " + changed, gold, False, "gold changed by one")


# --- the table


def main() -> None:
    parser = argparse.ArgumentParser(description="our checker and Math-Verify on the same rows")
    parser.add_argument("--gsm8k", type=Path, help='JSON Lines with {"question", "answer"}, gold after ####')
    parser.add_argument("--variants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="print so many rows of each kind of disagreement")
    options = parser.parse_args()
    sets = {"corpus": list(corpus()), "variants": list(variants(options.variants, options.seed))}
    if options.gsm8k:
        sets["gsm8k"] = list(gsm8k(options.gsm8k))
    math_verify = MathVerify()
    print("| rows | n | both right | only ours right | only Math-Verify right | both wrong |")
    print("|---|---|---|---|---|---|")
    disputed: dict[str, list[Row]] = {}
    for name, rows in sets.items():
        groups: dict[str, Counter[tuple[bool, bool]]] = {}
        for row in rows:
            outcome = ours(row) == row.right, math_verify.says(row) == row.right
            groups.setdefault("all" if name == "variants" else row.form, Counter())[outcome] += 1
            if not all(outcome):
                disputed.setdefault(f"{name}: {row.form}, {'ours' if outcome[0] else 'not ours'} right", []).append(row)
        for form, counts in sorted(groups.items()):
            cells = [counts.total(), counts[True, True], counts[True, False], counts[False, True], counts[False, False]]
            print(f"| {name}: {form} | {' | '.join(map(str, cells))} |")
    print(f"\nMath-Verify hung past its own timeouts on {math_verify.hung} rows.\n")
    for name, found in sorted(disputed.items()):
        print(f"{len(found):5}  {name}")
        for row in found[: options.show]:
            print(f"         {row.text[-70:]!a} against {row.gold!a}")


if __name__ == "__main__":
    main()
