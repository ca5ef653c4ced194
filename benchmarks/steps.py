"""How many equations the step checker reads, how many slips it finds, and how often it is wrong.

    python -m benchmarks.steps --gsm8k FILE [--seed 0] [--show 20]

FILE holds rows {"question", "answer"} whose answers are worked solutions, such as GSM8K's training set. Printed:
  coverage     the share of equals signs with an explicit calculation beside them (a regular expression of this
               file finds those, not the checker) that the checker reads as an equation;
  called bad   the equations of the solutions as they are that it calls false. Human solutions have real slips:
               ``--show`` prints all of them for a person to read, and what is no slip is a false alarm;
  recall       of copies in which one number of one equation was changed, the share that is called bad, for a
               changed result and for a changed operand, each in <<...>> and in the prose.
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cotdistill.reading.claim import claims_in
from cotdistill.steps import check_steps

_NUMBER = r"[$€£]?\s?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)\s?%?"
_EXPLICIT = re.compile(rf"{_NUMBER}(?:\s?[-+*/x×÷]\s?\(?{_NUMBER}\)?)+\s?=\s?{_NUMBER}")
_IN_MARKS = re.compile(r"<<([^<>\n]+)>>")
_CALCULATES = re.compile(r"[0-9)%.]\s?[-+*/x×÷]")  # <<10=10>> is no calculation
_PLAIN_NUMBER = re.compile(r"(?<![0-9.,/])[0-9]+(?:\.[0-9]+)?(?![0-9.,/]|\s?%)")


def explicit(text: str) -> Iterator[tuple[int, int]]:
    """Where equations stand that are written out in numbers and signs: (start, end)."""
    for match in _EXPLICIT.finditer(text):
        yield match.span()


def read_share(solutions: list[str]) -> tuple[int, int]:
    """How many explicit equations there are, and how many of them are read, in prose and in <<...>>."""
    there = read = 0
    for solution in solutions:
        for part in (_IN_MARKS.sub("", solution), "\n".join(_IN_MARKS.findall(solution))):
            found = Counter(_squeezed(claim.text) for claim in claims_in(part))
            for start, end in explicit(part):
                there += 1
                wanted = _squeezed(part[start:end]).strip("%")
                match = next((text for text in found if found[text] and (wanted in text or text in wanted)), None)
                if match is not None:
                    found[match] -= 1
                    read += 1
    return there, read


def _squeezed(text: str) -> str:
    return re.sub(r"[\s$€£,()]", "", text).replace("x", "*").replace("×", "*").replace("÷", "/")


def corrupted(solution: str, random_: random.Random, *, marks: bool, result: bool) -> str | None:
    """The solution with one number of one of its equations changed, None if it has no such equation."""
    if not marks:
        solution = _IN_MARKS.sub("", solution)
    spans = [m.span(1) for m in _IN_MARKS.finditer(solution) if _CALCULATES.search(m[1])]
    spans = spans if marks else list(explicit(solution))
    random_.shuffle(spans)
    for start, end in spans:
        equation = solution[start:end]
        equals = equation.rfind("=")
        numbers = [m for m in _PLAIN_NUMBER.finditer(equation) if (m.start() > equals) == result]
        if equals < 0 or not numbers:
            continue
        number = random_.choice(numbers)
        changed = _changed(number[0], random_)
        return solution[: start + number.start()] + changed + solution[start + number.end() :]
    return None


def _changed(number: str, random_: random.Random) -> str:
    """Another number with as many decimals: one digit changed, the first not to zero."""
    while True:
        at = random_.choice([i for i, c in enumerate(number) if c.isdigit()])
        digit = random_.choice([d for d in "0123456789" if d != number[at]])
        changed = number[:at] + digit + number[at + 1 :]
        if float(changed) != float(number) and (at or digit != "0" or len(number) == 1):
            return changed


def main() -> None:
    parser = argparse.ArgumentParser(description="coverage, false alarms and recall of the step checker")
    parser.add_argument("--gsm8k", type=Path, required=True, help='JSON Lines with {"question", "answer"}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="print so many equations called bad, and missed copies")
    options = parser.parse_args()
    lines = options.gsm8k.read_text("utf-8").split("\n")
    solutions = [json.loads(line)["answer"].rpartition("####")[0] for line in lines if line]

    there, read = read_share(solutions)
    checked = [check_steps(solution) for solution in solutions]
    claims, bad = sum(steps.claims for steps in checked), [(i, b) for i, s in enumerate(checked) for b in s.bad]
    print(f"{len(solutions)} solutions, {claims} equations read")
    print(f"coverage: {read} of {there} explicit equations ({100 * read / there:.1f} %)")
    print(f"called bad: {len(bad)} equations in {len({i for i, _ in bad})} solutions")
    for index, text in bad[: options.show]:
        print(f"    row {index}: {text}")

    sound = [s for s, steps in zip(solutions, checked, strict=True) if not steps.bad]
    for marks in (True, False):
        for result in (True, False):
            random_ = random.Random(options.seed)
            copies = [c for s in sound if (c := corrupted(s, random_, marks=marks, result=result)) is not None]
            missed = [copy for copy in copies if not check_steps(copy).bad]
            found = len(copies) - len(missed)
            name = f"{'result' if result else 'operand'} changed in {'<<...>>' if marks else 'the prose'}"
            print(f"recall, {name}: {found} of {len(copies)} ({100 * found / len(copies):.1f} %)")
            for copy in missed[: options.show]:
                print(f"    {copy!a}")


if __name__ == "__main__":
    main()
