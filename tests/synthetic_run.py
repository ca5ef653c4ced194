"""A finished run made up from a seed: every file that a report is made from, and no model."""

import random
import re
from pathlib import Path

from cotdistill.engines import Completion
from cotdistill.journal import write_rows
from cotdistill.prediction import Prediction, graded
from cotdistill.question import Question
from cotdistill.recipe import decode_recipe, dump_recipe
from cotdistill.storage.disk import write_atomic
from cotdistill.storage.manifest import Manifest
from cotdistill.trace import Trace
from cotdistill.verdict import judge

SKILL = {"base": 0.3, "student": 0.6, "teacher": 0.85, "answer_only": 0.35}
HOSTILE = (
    "</script><script>document.title='taken'</script>",
    '<img src=x onerror="document.title=\'taken\'">',
    "<!--<script>",
    "\x1b[2J\x1b]0;taken\x07",
    "a\u202e63\u2066b",
    "line\u2028separated\u2029twice",
    "{{ 7 * 7 }}{% raw %}",
    "\U0001f600 before <b>bold</b> & \"quoted\" 'text'",
)


def make_run(
    directory: Path, questions: int = 40, *, seed: int = 0, hostile: bool = False, unseen: int = 6, more: bool = False
) -> Path:
    """Write the files of a run on ``questions`` held-out and as many training questions into ``directory``.

    With ``hostile``, every text that a model or a user may have written carries markup and control characters. With
    ``more``, there are a second student, taught the answers alone, two terms of the loss and questions set aside.
    """
    chance = random.Random(seed)
    asked = {
        "train": [_question(chance, f"t{i}") for i in range(questions)],
        "held_out": [_question(chance, f"q{i}", hostile) for i in range(questions)],
        "unseen": [_question(chance, f"u{i}") for i in range(unseen)],
    }
    recipe = decode_recipe(
        {
            "name": "made-up",
            "models": {"teacher": "/home/somebody/models/teacher.gguf", "student": "smollm2-135m-instruct"},
            "questions": {"train": {"file": "/home/somebody/train.jsonl"}, "held_out": {"file": "test.jsonl"}},
            "generate": {"system_prompt": f"Think. {HOSTILE[0]}" if hostile else "Think."},
            "evaluate": {"max_new_tokens": 120, "answer_only": more},
            "report": {"title": f"Made up {HOSTILE[1]}" if hostile else "Made up"},
        },
        "made-up",
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / "recipe.yaml", dump_recipe(recipe).encode())
    for part, name in (("train", "questions"), ("held_out", "held_out"), ("unseen", "unseen")):
        write_rows(directory / f"1_{name}.jsonl", asked[part])
    manifest = Manifest.open(directory / "manifest.json")
    manifest.note(versions={"python": "3.11", "cotdistill": "0"}, recipe_sha256="0" * 64)
    _record(manifest, "questions", train=questions, held_out=questions, unseen=unseen)

    traces = [_trace(chance, question, hostile) for question in asked["train"]]
    verdicts = [judge(trace, question) for trace, question in zip(traces, asked["train"], strict=True)]
    write_rows(directory / "2_traces.jsonl", traces)
    write_rows(directory / "3_verdicts.jsonl", verdicts)
    _record(manifest, "generate", rows=questions, prompt_tokens=100, completion_tokens=200, seconds=61.0)
    losses = [[step, 2.0 / step + chance.random() / 10] for step in range(1, 41)]
    teach = sum(verdict.status == "correct" for verdict in verdicts)
    tried = {
        "terms": {"label": [[step, loss / 2] for step, loss in losses], "rationale": [[s, x + 0.2] for s, x in losses]},
        "validation": [[14, 0.61], [27, 0.48], [40, 0.52]], "best_step": 27,
    } if more else {}  # fmt: skip
    _record(manifest, "train", examples=teach, tokens=5000, too_long=0, seconds=3700.0, losses=losses, **tried)
    if more:
        _record(manifest, "train/answer_only", examples=teach, tokens=900, seconds=700.0, losses=losses)

    (directory / "5_adapter").mkdir(exist_ok=True)
    for name in SKILL:
        for part, label in (("held_out", ""), ("unseen", "unseen/")):
            if asked[part] and (name != "answer_only" or (more and not label)):
                rows = [_prediction(chance, name, question, hostile) for question in asked[part]]
                write_rows(directory / f"6_predictions/{label}{name}.jsonl", rows)
                _record(manifest, f"evaluate/{label}{name}", rows=len(rows), seconds=5.0)
    return directory


def _record(manifest: Manifest, stage: str, **facts: object) -> None:
    manifest.claim(stage, {}, overwrite=True, files=[])
    manifest.finish(stage, **facts)


def _question(chance: random.Random, key: str, hostile: bool = False) -> Question:
    a, b, c = (chance.randint(2, 99) for _ in range(3))
    text = (
        f"Question {key}: a farm has {a} hens and {b} ducks. Each day it sells {c} eggs at 2 dollars and gives some to "
        "a neighbour, who pays with milk. How many birds and eggs are there together at the end of the day?"
    )
    if hostile:
        text += f" {chance.choice(HOSTILE)}"
    return Question(key, text, str(a + b + c), category=f"kind {a % 3}{HOSTILE[0] if hostile else ''}")


def _written(chance: random.Random, question: Question, skill: float, hostile: bool) -> tuple[str, str]:
    """A text and how it finished."""
    a, b, c = [int(word) for word in question.text.split() if word.isdigit()][:3]
    right = chance.random() < skill
    wrong = 0 if right else chance.randint(1, 9)
    lines = [
        f"First the birds: the {a} hens and the {b} ducks are {a} + {b} = {a + b + wrong} birds, as nothing was sold "
        f"of them. {' '.join(chance.choice(WORDS) for _ in range(45))}.",
        f"Then the eggs: {a + b + wrong} + {c} = {a + b + c + wrong}. {' '.join(chance.choice(WORDS) for _ in range(30))}.",
    ]
    if hostile:
        lines.insert(1, chance.choice(HOSTILE))
    fate = chance.random()
    if fate < 0.08:
        return lines[0], "length"
    if fate < 0.14:
        return "Hens and ducks.", "stop"
    if fate < 0.16:
        return "", "error"
    return "\n".join([*lines, f"Final Answer: {a + b + c + wrong}"]), "stop"


WORDS = re.findall(
    r"\w+",
    "therefore the number of birds counts each once and we add what remains after selling so that every egg is held "
    "together with all animals which live there under one roof near our river while nobody takes any away from it",
)


def _completion(chance: random.Random, question: Question, skill: float, hostile: bool) -> Completion:
    text, finish = _written(chance, question, skill, hostile)
    failure = f"the server said {HOSTILE[0]}" if finish == "error" else None
    tokens = 120 if finish == "length" else min(119, len(text) // 4)
    return Completion(f"{question.id}#0", text, finish, 60, tokens, 0.5, error=failure)  # type: ignore[arg-type]


def _prediction(chance: random.Random, name: str, question: Question, hostile: bool) -> Prediction:
    return graded(question, 0, _completion(chance, question, SKILL[name], hostile))


def _trace(chance: random.Random, question: Question, hostile: bool) -> Trace:
    done = _completion(chance, question, SKILL["teacher"], hostile)
    return Trace(
        done.key, question.id, question.text, done.text, finish=done.finish, model="teacher",
        completion_tokens=done.completion_tokens, error=done.error,
    )  # fmt: skip
