"""Which settings count: every flag of a stage either forces it to be made again or is listed with a reason."""

import inspect
from collections.abc import Callable

import pytest

from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.generate import generate
from cotdistill.commands.train import train
from cotdistill.storage.fingerprint import HARMLESS, changes, is_harmless

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


@pytest.mark.parametrize("command", [generate, evaluate, train])
def test_every_flag_counts_or_is_listed_as_harmless_and_never_both(command: Callable[..., None]) -> None:
    stage = command.__name__
    for flag in inspect.signature(command).parameters:
        assert (flag in COUNTED[stage]) != is_harmless(stage, flag), flag
    assert COUNTED[stage].keys() <= inspect.signature(command).parameters.keys()


def test_every_harmless_setting_is_one_there_is_and_has_a_reason() -> None:
    from cotdistill.engines.server import Server
    from cotdistill.recipe import ReportSettings

    flags = {flag for command in (generate, evaluate, train) for flag in inspect.signature(command).parameters}
    there = flags | {*Server.__struct_fields__, *ReportSettings.__struct_fields__}
    assert {name.partition("@")[0] for name in HARMLESS} <= there
    assert all(HARMLESS.values())


def test_a_harmless_name_is_the_last_part_of_a_key_and_may_belong_to_one_stage() -> None:
    assert is_harmless("evaluate/base", "engine.batch_size")
    assert is_harmless("report", "report.title")
    for stage, key in [
        ("train", "batch_size"), ("questions", "limit"), ("generate", "sampling.temperature"), ("generate", "seed"),
        ("generate", "model"), ("generate", "sampling.max_new_tokens"), ("generate", "system_prompt"),
        ("generate", "title.model"), ("generate", "model.extra_body.timeout"),
        ("evaluate/teacher", "model.extra_body.chat_template_kwargs.cache"), ("train", "learning_rate"), ("generate", "few_shot_hash"),
    ]:  # fmt: skip
        assert not is_harmless(stage, key), (stage, key)


def test_changes_are_dotted_and_name_both_values() -> None:
    old = {"sampling": {"temperature": 0.2, "top_p": 1.0}, "batch_size": 8, "gone": None}
    new = {"sampling": {"temperature": 0.7, "top_p": 1.0}, "batch_size": 1}
    assert changes("generate", old, new) == ["sampling.temperature: 0.2 -> 0.7", "gone: None -> not set"]
    assert "batch_size: 8 -> 1" in changes("train", old, new)
