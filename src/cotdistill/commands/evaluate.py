"""``cotdistill evaluate``, ``scripts/eval_cot.py``: models answer held-out questions."""

from pathlib import Path
from typing import Annotated

import typer

from cotdistill.commands import options as o


def evaluate(
    base_model: Annotated[str, typer.Option("--base_model", help="Directory or catalogue name.")],
    test_file: Annotated[Path, typer.Option("--test_file", help="Questions with gold answers.")],
    output_file: Annotated[Path, typer.Option("--output_file", help="Where the predictions go.")],
    lora_model: Annotated[Path | None, typer.Option("--lora_model", help="Adapter; without one, the base.")] = None,
    max_new_tokens: o.MaxNewTokens = 512,
    num_samples: Annotated[
        int, typer.Option("--num_samples", min=1, help="Answers to each question, for maj@k and pass@k.")
    ] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    batch_size: o.BatchSize = 32,
    compare_base: Annotated[
        bool, typer.Option("--compare_base", help="Ask the base model too, and test the difference.")
    ] = False,
    baseline: o.Baseline = "",
    few_shot: Annotated[
        Path | None, typer.Option("--few_shot", help="Worked examples for --baseline few_shot (JSON Lines).")
    ] = None,
    teacher_model: Annotated[
        str | None,
        typer.Option("--teacher_model", help="Ask the teacher too: directory, GGUF, catalogue or server's name."),
    ] = None,
    engine: o.EngineOption = "auto",
    workers: o.Workers = None,
    base_url: o.BaseUrl = None,
    concurrency: o.Concurrency = 16,
    timeout: o.Timeout = 600.0,
    api_key_env: o.ApiKeyEnv = None,
    api_key_file: o.ApiKeyFile = None,
    extra_body: o.ExtraBody = None,
    system_prompt: Annotated[
        str | None, typer.Option("--system_prompt", help="Default: the one the adapter was trained with.")
    ] = None,
    thinking: Annotated[
        bool | None,
        typer.Option("--thinking/--no_thinking", help="Whether models whose chat template has a switch for it think "
                     "first. Default: as the student was trained, else not."),
    ] = None,
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
    """Answer the test questions, grade the answers and print accuracy with its interval.

    Every model gets the same prompt and the same scorer. Predictions of the base and the teacher go beside
    OUTPUT_FILE.
    """
    from cotdistill.engines.opening import engine_name
    from cotdistill.errors import UsageError
    from cotdistill.evaluation import Entrant, evaluate_all
    from cotdistill.learning.ranks import here
    from cotdistill.prompt import load_few_shot
    from cotdistill.settings.evaluate import Evaluate, baselines_in
    from cotdistill.settings.models import Models
    from cotdistill.storage.manifest import beside

    here().alone("an evaluation")
    ways = baselines_in(baseline)
    if ("few_shot" in ways) != (few_shot is not None):
        raise UsageError("--baseline few_shot and --few_shot FILE go together")
    compare_base = compare_base or ("zero" in ways and lora_model is not None)
    if compare_base and not lora_model:
        raise UsageError("--compare_base needs --lora_model: without an adapter the base is all there is")
    if output_file.resolve() == test_file.resolve():
        raise UsageError(f"--output_file is the test file {test_file}; name another one")
    if base_url and not teacher_model:
        raise UsageError("--base_url is the teacher's server: --teacher_model says what it calls the model")
    server = o.server_of(base_url, concurrency, timeout, api_key_env, api_key_file, extra_body=extra_body)
    with o.usage():
        o.checked(Models(teacher_model or base_model, "", engine_name(engine), server=server, workers=workers))
        o.checked(Evaluate(max_new_tokens, batch_size, num_samples=num_samples, temperature=temperature))

    student = Entrant("student" if lora_model else "base", base_model, lora_model, output_file)
    entrants = [student]
    if compare_base:
        entrants.insert(0, Entrant("base", base_model, None, beside(output_file, "base.jsonl")))
    if "few_shot" in ways and few_shot:
        file, shots = beside(output_file, "base_few_shot.jsonl"), load_few_shot(few_shot)
        entrants.append(Entrant("base_few_shot", base_model, None, file, shots=shots))
    if "native" in ways:
        file = beside(output_file, "base_native.jsonl")
        entrants.append(Entrant("base_native", base_model, None, file, system_prompt=""))
    if teacher_model:
        entrants.append(Entrant("teacher", teacher_model, None, beside(output_file, "teacher.jsonl")))
    evaluate_all(
        entrants,
        test_file,
        output_file,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        num_samples=num_samples,
        batch_size=batch_size,
        engine=engine_name(engine),
        workers=workers,
        server=server,
        system_prompt=system_prompt,
        thinking=thinking,
        limit=limit,
        load_in_4bit=load_in_4bit,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        question_key=question_key,
        answer_key=answer_key,
        overwrite=overwrite,
        break_lock=break_lock,
        quiet=quiet,
    )
