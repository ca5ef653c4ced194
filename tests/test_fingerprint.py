"""Which settings count: every flag of a stage either forces it to be made again or is listed with a reason."""

import inspect
from collections.abc import Callable

import pytest

from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.generate import generate
from cotdistill.commands.train import train
from cotdistill.storage.fingerprint import HARMLESS, changes

COUNTED = {
    "generate": {
        "teacher_model": "model", "engine": "model", "max_new_tokens": "sampling", "temperature": "sampling",
        "do_sample": "sampling", "seed": "sampling", "thinking": "sampling", "num_samples": "num_samples", "system_prompt": "system_prompt",
        "few_shot": "few_shot", "load_in_4bit": "load_in_4bit", "trust_remote_code": "trust_remote_code",
        # Steps after the first count from when they were begun.
        "escalate": "escalate", "escalate_temperature": "escalate", "escalate_max_new_tokens": "escalate",
        "second_teacher": "second_teacher", "hint": "hint", "extra_body": "model",
    },
    "evaluate": {
        "base_model": "model", "teacher_model": "model", "engine": "model", "lora_model": "adapter",
        "max_new_tokens": "sampling", "system_prompt": "system_prompt", "load_in_4bit": "load_in_4bit",
        "trust_remote_code": "trust_remote_code", "num_samples": "num_samples", "temperature": "sampling",
        "few_shot": "few_shot", "thinking": "sampling", "extra_body": "model",
    },
    "train": {
        "student_model": "student", "system_prompt": "system_prompt", "load_in_4bit": "load_in_4bit",
        "trust_remote_code": "trust_remote_code", "teacher_model": "teacher", "few_shot": "few_shot",
        **dict.fromkeys(
            ("num_epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "max_length",
             "gradient_checkpointing", "lora_r", "lora_alpha", "lora_dropout", "target_modules", "target", "seed",
             "lr_scheduler", "warmup_ratio", "optim", "validation", "patience", "use_dora", "use_rslora",
             "objective", "alpha", "student_share", "beta", "max_new_tokens", "teacher_weight", "top_k"),
            "train",
        ),
    },
}  # fmt: skip
"""Under which key of what the stage claims a flag counts."""

UNCLAIMED = {
    "enough": "which samples are asked for, not what they are; where more are wanted, they are asked for now",
    "max_cost": "when to stop asking; what was asked stays, and the same command with a higher cap goes on",
    "max_tokens_total": "as max_cost",
    "cache": "whether an answer is looked up; it is that of the same model to the same request",
    "device_map": "where the layers lie; the number format, which a place can change, counts as `engine`",
    "limit@generate": "more questions or fewer: rows already made stay as they are",
    "limit@evaluate": "as for generate; only the questions asked for are counted",
    "limit@train": "what is taught counts, by its content",
    "cot_dataset": "as limit@train",
    "input_file": "a row belongs to its question, wherever that stands; rows of other questions are refused",
    "test_file": "as input_file",
    "question_key": "where a question's text stands; another text under the same id is refused",
    "answer_key": "where gold stands; traces do not depend on it, and answers to other gold are refused",
    "output_file": "the manifest lies beside it",
    "output_dir": "as output_file",
    "compare_base": "one more model, with a file of its own",
    "baseline": "as compare_base",
    "base_url": "which machine serves the model, which is known by its name",
    "concurrency": "how many requests are in flight at once",
    "workers": "how many copies of the model answer; each request has its own seed",
    "timeout": "how long to wait for a server; a row that timed out is asked again",
    "retries": "how often to ask again",
    "max_failures": "when to give up; rows that failed are asked again",
    "api_key_env": "whom a server lets in",
    "api_key_file": "as api_key_env",
    "price_prompt": "what the rows cost, not what they are",
    "price_completion": "as price_prompt",
    "title": "a heading of the report",
    "quiet": "what is shown on the terminal",
    "report_to": "who else is told of the loss; it is the same loss",
    "dry_run": "nothing is trained",
    "overwrite": "how this process began",
    "break_lock": "as overwrite",
}
"""Settings and flags that no stage claims, each with the reason; ``name@stage`` is not claimed by that stage only."""


@pytest.mark.parametrize("command", [generate, evaluate, train])
def test_every_flag_counts_or_is_listed_with_a_reason_and_never_both(command: Callable[..., None]) -> None:
    stage = command.__name__
    for flag in inspect.signature(command).parameters:
        listed = flag in UNCLAIMED or f"{flag}@{stage}" in UNCLAIMED or f"{stage}.{flag}" in HARMLESS
        assert (flag in COUNTED[stage]) != listed, flag
    assert COUNTED[stage].keys() <= inspect.signature(command).parameters.keys()


def test_every_listed_setting_is_one_there_is_and_has_a_reason() -> None:
    from cotdistill.engines.server import Server
    from cotdistill.recipe import ReportSettings

    flags = {flag for command in (generate, evaluate, train) for flag in inspect.signature(command).parameters}
    there = flags | {*Server.__struct_fields__, *ReportSettings.__struct_fields__}
    assert {name.partition("@")[0] for name in UNCLAIMED} <= there
    assert all({**UNCLAIMED, **HARMLESS}.values())


def test_a_batch_is_harmless_where_prompts_are_completed_and_only_there() -> None:
    def counts(stage: str, **settings: object) -> bool:
        return bool(changes(stage, {}, settings))

    assert not counts("generate", batch_size=8)
    assert not counts("evaluate/base", batch_size=8)
    assert counts("train", train={"batch_size": 8})
    assert counts("train", batch_size=8)
    assert counts("generate", model={"extra_body": {"batch_size": 8}})
    assert counts("evaluate/teacher", model={"extra_body": {"batch_size": 8}})
    assert counts("questions", limit=10)


def test_changes_are_dotted_and_name_both_values() -> None:
    old = {"sampling": {"temperature": 0.2, "top_p": 1.0}, "batch_size": 8, "gone": None}
    new = {"sampling": {"temperature": 0.7, "top_p": 1.0}, "batch_size": 1}
    assert changes("generate", old, new) == ["sampling.temperature: 0.2 -> 0.7", "gone: None -> not set"]
    assert "batch_size: 8 -> 1" in changes("train", old, new)
