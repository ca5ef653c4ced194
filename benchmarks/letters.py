"""Where last letters go wrong: names spelled right, last letters taken, letters joined, in answers of the taught form.

    python -m benchmarks.letters runs/objectives/last_letters/qwen_sft_answers.jsonl

    Hans: H a n s. Last letter s. g + s = gs
"""

import re
import sys
from pathlib import Path

from cotdistill.journal import read_rows
from cotdistill.prediction import Prediction

NAME = re.compile(r"(\w+): ([\w ]+)\. Last letter (\w)\. (.*)")
JOIN = re.compile(r"(\w+) \+ (\w) = (\w+)")


def main() -> None:
    counts = dict.fromkeys(("names", "spelled right", "last letter of the spelling", "joins", "joined right"), 0)
    for row in read_rows(Path(sys.argv[1]), Prediction):
        for name, spelling, last, join in NAME.findall(row.response):
            counts["names"] += 1
            counts["spelled right"] += spelling.replace(" ", "").lower() == name.lower()
            counts["last letter of the spelling"] += last.lower() == spelling[-1].lower()
            if found := JOIN.match(join):
                before, letter, joined = found.groups()
                counts["joins"] += 1
                counts["joined right"] += before + letter == joined
    print(", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    main()
