"""Arms: the ways of making traces that ``benchmarks.generate`` holds side by side.

    python -m benchmarks.arms '{"way": "ours", "engine": "llama_cpp", "model": "smollm2-135m-instruct",
                                "questions": "gsm8k.jsonl", "start": 0, "stop": 16, "new_tokens": 160, "batch": 16,
                                "rows": "rows.jsonl"}'

All arms get the same prompts, stop at the same tokens, are greedy and have the same limit. A short request that has
nothing in common with the others comes before the clock starts; loading the model is not timed either. The answers are
written to ``rows`` as predictions; what it took is printed in one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from cotdistill.asking.ask import row_id
from cotdistill.download import local_model
from cotdistill.engines import Completion, EngineName, Message, Request, Sampling
from cotdistill.engines.opening import find_gguf, open_engine
from cotdistill.journal import read_rows, write_rows
from cotdistill.machine import peak_memory
from cotdistill.model import Model
from cotdistill.prediction import Prediction, graded, predict
from cotdistill.prompt import SYSTEM_PROMPT, messages_for
from cotdistill.question import Question, load_questions

WARM = (Message("user", "Say yes."),)
LONGEST_PROMPT = 512
"""Tokens of prompt that llama.cpp has room for in each slot, beside the answer."""

Way = Literal["ours", "raw_llama_cpp", "raw_transformers", "raw_ctranslate2"]


class Plan(msgspec.Struct, frozen=True):
    """One arm on questions ``start`` to ``stop``. ``batch`` is also the number of slots. ``share`` is whether raw
    llama.cpp may keep the prompts it has computed. ``scratch`` is where CTranslate2's form of the model is kept."""

    way: Way
    model: str
    questions: str
    start: int
    stop: int
    new_tokens: int
    batch: int
    rows: str
    engine: EngineName = "auto"
    share: bool = True
    scratch: str = ""

    def asked(self) -> list[Question]:
        return load_questions(self.questions)[self.start : self.stop]


class Took(msgspec.Struct, frozen=True):
    """What an arm took for its ``rows`` questions. ``tokens`` are those of its answers, ``prompt_tokens`` those of the
    prompts whether computed or kept from before."""

    rows: int
    seconds: float
    cpu_seconds: float
    prompt_tokens: int
    tokens: int
    correct: int
    cut_off: int
    peak_mb: int


def run(plan: Plan) -> Took:
    """Make the traces of a plan."""
    rows = Path(plan.rows)
    rows.unlink(missing_ok=True)
    ways: dict[str, Callable[[Plan, Sequence[Question], Path], tuple[float, float]]] = {
        "ours": _ours, "raw_llama_cpp": _raw_llama_cpp, "raw_transformers": _raw_transformers,
        "raw_ctranslate2": _raw_ctranslate2,
    }  # fmt: skip
    seconds, cpu_seconds = ways[plan.way](plan, plan.asked(), rows)
    written = list(read_rows(rows, Prediction))
    return Took(
        rows=len(written),
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        prompt_tokens=sum(row.prompt_tokens for row in written),
        tokens=sum(row.completion_tokens for row in written),
        correct=sum(bool(row.correct) for row in written),
        cut_off=sum(row.finish == "length" for row in written),
        peak_mb=peak_memory() >> 20,
    )


class _Clock:
    seconds = cpu_seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds, self.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu


def _ours(plan: Plan, asked: Sequence[Question], rows: Path) -> tuple[float, float]:
    """Stage 1 as a user has it: prompts, engine, journal, answers read."""
    context = LONGEST_PROMPT + plan.new_tokens
    engine = open_engine(plan.model, engine=plan.engine, batch_size=plan.batch, context=context)
    clock = _Clock()
    list(engine.complete([Request("warm", WARM)], Sampling(max_new_tokens=4)))
    with clock.running():
        predict(engine, asked, rows, system=SYSTEM_PROMPT, sampling=Sampling(max_new_tokens=plan.new_tokens))
    engine.close()
    return clock.seconds, clock.cpu_seconds


def _raw_llama_cpp(plan: Plan, asked: Sequence[Question], rows: Path) -> tuple[float, float]:
    """xllamacpp's own server, fed by one thread a slot."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_gguf(plan.model) or local_model(plan.model, want="gguf"))
    parameters.n_ctx = (LONGEST_PROMPT + plan.new_tokens) * plan.batch
    parameters.n_parallel = plan.batch
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)

    def ask(messages: Sequence[Message], new_tokens: int) -> dict[str, Any]:
        answer: dict[str, Any] = server.handle_chat_completions({
            "messages": msgspec.to_builtins(messages), "max_tokens": new_tokens, "temperature": 0.0, "top_k": 1,
            "cache_prompt": plan.share,
        })  # fmt: skip
        return answer

    clock = _Clock()
    ask(WARM, 4)
    with clock.running(), ThreadPoolExecutor(plan.batch) as pool:
        prompts = [messages_for(question, SYSTEM_PROMPT) for question in asked]
        answers = list(pool.map(ask, prompts, [plan.new_tokens] * len(asked)))
    completions = [
        Completion(
            key=row_id(question.id, 0),
            text=answer["choices"][0]["message"]["content"] or "",
            finish="stop" if answer["choices"][0]["finish_reason"] == "stop" else "length",
            prompt_tokens=answer["usage"]["prompt_tokens"],
            completion_tokens=answer["usage"]["completion_tokens"],
            seconds=clock.seconds / len(asked),
        )
        for question, answer in zip(asked, answers, strict=True)
    ]
    _write(rows, asked, completions)
    return clock.seconds, clock.cpu_seconds


def _raw_transformers(plan: Plan, asked: Sequence[Question], rows: Path) -> tuple[float, float]:
    """``generate`` on batches in the order of the file; batch 1 is the loop that everybody writes first."""
    import torch
    from transformers import GenerationConfig

    model = _loaded(plan.model)
    template = model.template
    config = GenerationConfig(
        max_new_tokens=plan.new_tokens, do_sample=False, eos_token_id=template.stop_ids, pad_token_id=template.pad_id
    )
    model.tokenizer.padding_side = "left"
    model.tokenizer.pad_token = model.tokenizer.pad_token or model.tokenizer.eos_token
    clock = _Clock()
    written: list[tuple[int, list[int]]] = []
    with torch.inference_mode():
        model.module.generate(torch.tensor([template.prompt_ids(WARM)]), max_new_tokens=4, do_sample=False)
        with clock.running():
            for at in range(0, len(asked), plan.batch):
                batch = asked[at : at + plan.batch]
                prompts = [template.prompt_ids(messages_for(question, SYSTEM_PROMPT)) for question in batch]
                inputs = model.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
                output = model.module.generate(**inputs, generation_config=config)
                new = output[:, inputs["input_ids"].shape[1] :].tolist()
                written += [(len(prompt), ids) for prompt, ids in zip(prompts, new, strict=True)]
    _write(rows, asked, _decoded(model, plan, asked, written, clock.seconds))
    return clock.seconds, clock.cpu_seconds


def _raw_ctranslate2(plan: Plan, asked: Sequence[Question], rows: Path) -> tuple[float, float]:
    """CTranslate2 with int8 weights, converted from the Hugging Face directory the first time."""
    import ctranslate2

    model = _loaded(plan.model)
    tokenizer, stop_ids = model.tokenizer, model.template.stop_ids
    directory = Path(plan.scratch) / f"{Path(plan.model).name}-ct2-int8"
    if not directory.exists():
        ctranslate2.converters.TransformersConverter(str(model.directory)).convert(str(directory), quantization="int8")
    model.module = None
    cores = len(os.sched_getaffinity(0))
    generator = ctranslate2.Generator(str(directory), device="cpu", compute_type="int8", intra_threads=cores)

    def answers(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        results = generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts], max_batch_size=plan.batch,
            max_length=new_tokens, sampling_topk=1, end_token=stop_ids, return_end_token=True,
            include_prompt_in_result=False,
        )  # fmt: skip
        return [result.sequences_ids[0] for result in results]

    clock = _Clock()
    answers([model.template.prompt_ids(WARM)], 4)
    with clock.running():
        prompts = [model.template.prompt_ids(messages_for(question, SYSTEM_PROMPT)) for question in asked]
        new = answers(prompts, plan.new_tokens)
    written = [(len(prompt), ids) for prompt, ids in zip(prompts, new, strict=True)]
    _write(rows, asked, _decoded(model, plan, asked, written, clock.seconds))
    return clock.seconds, clock.cpu_seconds


def _loaded(name: str) -> Model:
    from cotdistill.hardware import place
    from cotdistill.model import load_model

    return load_model(local_model(name, want="hf"), place(load_in_4bit=False))


def _decoded(
    model: Model, plan: Plan, asked: Sequence[Question], written: Sequence[tuple[int, list[int]]], seconds: float
) -> list[Completion]:
    stops = set(model.template.stop_ids)
    completions = []
    for question, (prompt_tokens, ids) in zip(asked, written, strict=True):
        end = next((at for at, token in enumerate(ids) if token in stops), None)
        text = model.tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        spent = len(ids) if end is None else end + 1
        completions.append(
            Completion(row_id(question.id, 0), text, "length" if end is None else "stop", prompt_tokens, spent,
                       seconds / len(asked))
        )  # fmt: skip
    return completions


def _write(rows: Path, asked: Sequence[Question], completions: Sequence[Completion]) -> None:
    write_rows(rows, [graded(question, 0, one) for question, one in zip(asked, completions, strict=True)])


if __name__ == "__main__":
    print(json.dumps(msgspec.to_builtins(run(msgspec.json.decode(sys.argv[1], type=Plan)))))
