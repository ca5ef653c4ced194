"""``cotdistill generate``, ``scripts/gen_cot.py``: the teacher reasons through every question."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cotdistill.commands import options as o
from cotdistill.prompt import SYSTEM_PROMPT

log = logging.getLogger(__name__)


def generate(
    teacher_model: Annotated[
        str, typer.Option("--teacher_model", help="Directory, GGUF file, catalogue or server's name.")
    ],
    input_file: Annotated[
        Path, typer.Option("--input_file", help="Questions: JSON Lines, a JSON array, CSV, Parquet or hub:NAME:SPLIT.")
    ],
    output_file: Annotated[Path, typer.Option("--output_file", help="Where the traces go.")],
    max_new_tokens: o.MaxNewTokens = 512,
    batch_size: o.BatchSize = 8,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Only used with --do_sample; 0 is greedy.")
    ] = 0.2,
    do_sample: Annotated[
        bool, typer.Option("--do_sample", help="Sample instead of taking the likeliest token.")
    ] = False,
    num_samples: Annotated[
        int, typer.Option("--num_samples", min=1, help="Traces a question; with --enough the most it gets.")
    ] = 1,
    thinking: Annotated[
        bool,
        typer.Option("--thinking", help="Let a teacher think first whose chat template has a switch for it."),
    ] = False,
    enough: Annotated[
        int | None, typer.Option("--enough", min=1, help="Ask a question no more once so many traces may teach.")
    ] = None,
    escalate: Annotated[
        int | None,
        typer.Option("--escalate", min=1, help="So many samples more for a question none of whose traces may teach."),
    ] = None,
    escalate_temperature: Annotated[
        float | None,
        typer.Option("--escalate_temperature", min=0.01, help="Temperature of the samples of --escalate (0.8)."),
    ] = None,
    escalate_max_new_tokens: Annotated[
        int | None,
        typer.Option("--escalate_max_new_tokens", min=1, help="Longest of those, where the others are cut off."),
    ] = None,
    second_teacher: Annotated[
        str | None,
        typer.Option("--second_teacher", help="Asked what the first failed; directory, GGUF file or catalogue name."),
    ] = None,
    hint: Annotated[
        bool, typer.Option("--hint", help="Last of all, show the right answer and ask for the reasoning.")
    ] = False,
    max_cost: Annotated[
        float | None, typer.Option("--max_cost", min=0.0, help="Stop before traces cost more, in the prices' currency.")
    ] = None,
    max_tokens_total: Annotated[
        int | None, typer.Option("--max_tokens_total", min=1, help="Stop before prompts and traces have more tokens.")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep answers for other runs on this machine, and look there first.")
    ] = False,
    engine: o.EngineOption = "auto",
    workers: o.Workers = None,
    base_url: o.BaseUrl = None,
    concurrency: o.Concurrency = 16,
    timeout: o.Timeout = 600.0,
    api_key_env: o.ApiKeyEnv = None,
    api_key_file: o.ApiKeyFile = None,
    price_prompt: Annotated[
        float | None, typer.Option("--price_prompt", help="Price of a million prompt tokens.")
    ] = None,
    price_completion: Annotated[
        float | None, typer.Option("--price_completion", help="Price of a million completion tokens.")
    ] = None,
    extra_body: o.ExtraBody = None,
    system_prompt: o.SystemPrompt = SYSTEM_PROMPT,
    few_shot: Annotated[
        Path | None, typer.Option("--few_shot", help="Worked examples for the teacher's prompt (JSON Lines).")
    ] = None,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    load_in_4bit: o.Load4Bit = None,
    device_map: o.DeviceMap = "auto",
    trust_remote_code: o.TrustRemoteCode = False,
    question_key: o.QuestionKey = "question",
    answer_key: o.AnswerKey = "answer",
    overwrite: o.Overwrite = False,
    break_lock: o.BreakLock = False,
    quiet: o.Quiet = False,
) -> None:
    """Ask the teacher for step-by-step reasoning, and judge what it wrote.

    Traces go to OUTPUT_FILE, verdicts beside it. The same command goes on where it was stopped.
    """
    from cotdistill.asking.ask import asked_once
    from cotdistill.engines import Sampling
    from cotdistill.engines.opening import engine_name, takes_gguf
    from cotdistill.errors import DataError, SetupError, UsageError
    from cotdistill.learning.ranks import here
    from cotdistill.prompt import load_few_shot
    from cotdistill.question import load_questions
    from cotdistill.settings.generate import Escalate, Generate
    from cotdistill.settings.models import Models
    from cotdistill.settings.verify import Verify
    from cotdistill.stages.generate import run_generate
    from cotdistill.stages.models import Teacher, engine_for, identify
    from cotdistill.stages.verify import run_verify
    from cotdistill.storage.lock import locked
    from cotdistill.storage.manifest import Manifest, beside, input_of
    from cotdistill.storage.ours import refuse_foreign
    from cotdistill.trace import Trace
    from cotdistill.verdict import Verdict, check_golds

    here().alone("generating traces")
    do_sample = do_sample and temperature > 0
    if output_file.resolve() == input_file.resolve():
        raise UsageError(f"--output_file is the input file {input_file}; name another one")
    everything = load_questions(input_file, question_key=question_key, answer_key=answer_key)
    questions, twins = asked_once(everything[:limit])
    if twins:
        log.info("%s: %d of the questions are others under a second id; those are asked once", input_file, len(twins))
    check_golds(questions)
    shots = load_few_shot(few_shot) if few_shot else ()
    for flag, value in (("temperature", escalate_temperature), ("max_new_tokens", escalate_max_new_tokens)):
        if value and not escalate:
            raise UsageError(f"--escalate_{flag} is about the samples of --escalate N")
    if thinking and base_url:
        raise UsageError("--thinking is for a teacher that runs here; a server is told with --extra_body")
    server = o.server_of(
        base_url, concurrency, timeout, api_key_env, api_key_file, price_prompt, price_completion, extra_body
    )
    with o.usage():
        models = o.checked(Models(
            teacher_model, "", engine_name(engine), trust_remote_code, load_in_4bit, server, second_teacher,
            workers=workers,
        ))  # fmt: skip
        sampling = Sampling(max_new_tokens, do_sample, temperature, seed=seed, thinking=thinking)
        hotter = escalate_temperature or Escalate().temperature
        settings = o.checked(Generate(
            system_prompt, None, num_samples, batch_size, sampling, enough=enough, hint=hint, max_cost=max_cost,
            max_tokens_total=max_tokens_total, cache=cache,
            escalate=Escalate(escalate, hotter, escalate_max_new_tokens) if escalate else None,
        ))  # fmt: skip
    judged = Verify(hinted=hint)
    second = None
    if other := models.second:
        identity = identify(other.teacher, gguf=True)
        second = Teacher(identity, lambda: engine_for(other, batch_size, questions, settings, shots, device_map))
    record = beside(output_file, "manifest.json")
    verdicts = beside(output_file, "verdicts.jsonl")
    read = {"input_file": input_file, "few_shot": few_shot}
    with locked(record, break_lock=break_lock):
        manifest = Manifest.open(record)
        manifest.prepare(inputs={name: input_of(path) for name, path in read.items() if path}, seeds={"generate": seed})
        refuse_foreign(verdicts, Verdict)
        if overwrite:
            if "generate" not in manifest.stages:
                refuse_foreign(output_file, Trace)
            verdicts.unlink(missing_ok=True)  # those on the old traces must not bless new ones under the same ids
        try:
            run_generate(
                questions,
                output_file,
                manifest,
                settings=settings,
                shots=shots,
                model=identify(teacher_model, gguf=takes_gguf(models.engine), server=server),
                open_teacher=lambda: engine_for(models, batch_size, questions, settings, shots, device_map),
                server=server,
                second=second,
                verify=judged,
                unasked=[*twins, *everything[len(questions) + len(twins) :]],
                load_in_4bit=load_in_4bit,
                trust_remote_code=trust_remote_code,
                overwrite=overwrite,
                quiet=quiet,
            )
        except (KeyboardInterrupt, SetupError):
            # The traces so far, too: training must not have to judge them without gold. Where there are none, what
            # ended the asking is what there is to say.
            with suppress(DataError):
                run_verify(everything, output_file, verdicts, judged, add=True)
            raise
        tally = run_verify(everything, output_file, verdicts, judged, add=True)
    counts = tally.counts
    typer.echo(f"{output_file}: {counts.total()} traces, {tally.teach} may teach ({o.counted(counts)})")
