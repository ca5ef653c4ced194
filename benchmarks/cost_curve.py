"""What traces cost: per hour and per million tokens, against samples a question, slots, and the length of the prompt.

    python -m benchmarks.generate --questions gsm8k_test.jsonl --curve docs/cost_curve.svg

A few questions on llama.cpp, one thing changed at a time. Tokens are those of prompts and answers, as a provider
counts them; what is computed once and kept for the next request counts each time.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cotdistill.asking.ask import ask
from cotdistill.engines import Message, Request, Sampling
from cotdistill.engines.opening import open_engine
from cotdistill.machine import origin
from cotdistill.prompt import SYSTEM_PROMPT, Shot
from cotdistill.question import Question

RESULTS = Path(__file__).parent / "results" / "cost_curve.json"
SAMPLES, SLOTS, SHOTS = (1, 2, 4, 8), (1, 2, 4, 8, 16), (0, 4, 8, 16)
SHOT = Shot(
    "Ann has 12 red pens and buys 7 more in a shop. She gives 4 to Ben. How many has she now?",
    "She starts with 12 pens and buys 7, which makes 12 + 7 = 19. She gives 4 away: 19 - 4 = 15.\nFinal Answer: 15",
)


class Point(msgspec.Struct, frozen=True):
    """One setting and what it cost. ``prompt`` is the mean length of a prompt in tokens."""

    samples: int
    slots: int
    prompt: int
    traces_per_hour: float
    traces_per_million_tokens: float


def measured(questions: Sequence[Question], model: str, samples: int, slots: int, shots: int) -> Point:
    sampling = Sampling(max_new_tokens=96, do_sample=True, temperature=0.7)
    engine = open_engine(model, engine="llama_cpp", batch_size=slots, context=2048)
    list(engine.complete([Request("warm", (Message("user", "Say yes."),))], Sampling(max_new_tokens=4)))
    start = time.perf_counter()
    answers = [
        one for *_, one in ask(
            engine, questions, system=SYSTEM_PROMPT, shots=[SHOT] * shots, sampling=sampling, num_samples=samples
        )
    ]  # fmt: skip
    seconds = time.perf_counter() - start
    engine.close()
    prompts, written = (sum(getattr(one, f"{kind}_tokens") for one in answers) for kind in ("prompt", "completion"))
    return Point(
        samples, slots, round(prompts / len(answers)), round(3600 * len(answers) / seconds, 1),
        round(1e6 * len(answers) / (prompts + written), 1),
    )  # fmt: skip


def cost_curve(questions: Sequence[Question], model: str, picture: Path) -> None:
    """Measure every point, write the figures, draw them."""
    found: dict[str, list[Point]] = {"samples": [], "slots": [], "prompt": []}
    settings = [
        *(("samples", samples, 8, 0) for samples in SAMPLES),
        *(("slots", 2, slots, 0) for slots in SLOTS),
        *(("prompt", 2, 8, shots) for shots in SHOTS),
    ]
    for line, samples, slots, shots in settings:
        point = measured(questions, model, samples, slots, shots)
        found[line].append(point)
        print(f"{line}: {point}", flush=True)
    lines = msgspec.to_builtins(found)
    whole = {"model": model, "questions": len(questions), "lines": lines, **msgspec.to_builtins(origin())}
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")
    draw(found, f"{model}, {len(questions)} questions, answers of at most 96 tokens", picture)
    print(f"{RESULTS}\n{picture}")


def draw(found: dict[str, list[Point]], title: str, picture: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "cotdistill", "svg.fonttype": "none"}  # the same figures, the same file
    figure, axes = pyplot.subplots(2, 3, figsize=(9, 5), sharey="row", layout="constrained")
    under = {"samples": "samples a question", "slots": "slots", "prompt": "tokens of prompt"}
    beside = {"traces_per_hour": "traces per hour", "traces_per_million_tokens": "traces per million tokens"}
    for column, (key, points) in enumerate(found.items()):
        for row, figure_name in enumerate(beside):
            axis: Any = axes[row][column]
            across = [getattr(point, key) for point in points]
            axis.plot(across, [getattr(point, figure_name) for point in points], "o-", color="#2563eb")
            axis.set_xticks(across)
            axis.grid(color="#ddd")
            if row:
                axis.set_xlabel(under[key])
            if not column:
                axis.set_ylabel(beside[figure_name])
    for axis in axes[:, 0]:
        axis.set_ylim(bottom=0)  # last: it holds for the whole row, which must have found its top by then
    figure.suptitle(title)
    figure.savefig(picture, format="svg", metadata={"Date": None})
