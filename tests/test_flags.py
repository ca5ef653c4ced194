"""What is said on the command line is what a stage is given: each flag has a value here that is not its default."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cotdistill.cli import app
from cotdistill.errors import CotdistillError, UsageError
from cotdistill.settings.generate import Escalate

HERE = ["--system_prompt", "Add.", "--trust_remote_code", "--no_4bit"]
"""How a model that runs here is asked."""


class Reached(CotdistillError):
    """The stage was begun."""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Run a command up to its stage; returns what the stage is given by name, and by place under ``words``."""
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text('{"asked": "2 + 3?", "gold": "5"}\n{"asked": "2 + 4?", "gold": "6"}\n')
    Path("cot.jsonl").write_text('{"question": "2 + 3?", "reasoning": "2 + 3 = 5.\\nFinal Answer: 5", "thinking": "Five."}\n')
    Path("shots.jsonl").write_text('{"question": "1 + 1?", "reasoning": "1 + 1 = 2.\\nFinal Answer: 2"}\n')
    for place in ("stages.models", "evaluation"):
        monkeypatch.setattr(f"cotdistill.{place}.identify", lambda name, **_: {"name": name, "hash": ""})
    seen = {}

    def stage(*words, **more):
        seen.update(more, words=words)
        raise Reached("reached")

    for place in ("stages.train.run_train", "stages.generate.run_generate", "stages.verify.run_verify", "evaluation.run_evaluate"):
        monkeypatch.setattr(f"cotdistill.{place}", stage)

    def run(*words: str) -> dict:
        result = CliRunner().invoke(app, [*words])
        assert isinstance(result.exception, Reached), (result.output, result.exception)
        return seen

    return run


def flags(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])]


TRAIN = ["train", "--student_model", "s", "--cot_dataset", "cot.jsonl", "--output_dir", "out"]
ASKED = ["--question_key", "asked", "--answer_key", "gold", "--limit", "1"]


def test_training_is_given_what_was_said(given):
    plain = {
        "num_epochs": 2.0, "batch_size": 3, "gradient_accumulation_steps": 5, "learning_rate": 1e-3, "warmup_ratio": 0.2,
        "lr_scheduler": "linear", "optim": "adamw_8bit", "max_length": 99, "gradient_checkpointing": True, "seed": 7,
        "validation": 0.3, "patience": 2, "report_to": "tensorboard",
    }  # fmt: skip
    lora = {"lora_r": 4, "lora_alpha": 3, "lora_dropout": 0.25, "use_dora": True, "use_rslora": True, "target_modules": "q_proj"}
    found = given(*TRAIN, *flags({**plain, **lora}), *HERE, "--device_map", "cuda:1")
    settings = msgspec.to_builtins(found["settings"])
    assert {name: settings[name] for name in plain} == plain
    assert settings["lora"] == {"r": 4, "alpha": 3, "dropout": 0.25, "targets": ("q_proj",), "use_dora": True, "use_rslora": True}
    assert (found["student"], found["device_map"]) == ("s", "cuda:1")
    assert (found["system_prompt"], found["trust_remote_code"], found["load_in_4bit"]) == ("Add.", True, False)


@pytest.mark.parametrize(
    ("target", "text"),
    [("answer", "Final Answer: 5"), ("thinking", "<think>\nFive.\n</think>\n\n2 + 3 = 5.\nFinal Answer: 5")],
)
def test_training_is_given_the_texts_of_its_target(given, target, text):
    found = given(*TRAIN, "--target", target)
    assert found["settings"].target == target
    assert [learnt for _, _, learnt in found["words"][0]] == [text]


@pytest.mark.parametrize(
    ("objective", "own"),
    [
        ("step_by_step", {"alpha": 0.3}),
        ("on_policy", {"student_share": 0.2, "beta": 0.1, "top_k": 9, "max_new_tokens": 88}),
        ("offline_kd", {"teacher_weight": 0.7, "top_k": 9}),
    ],
)
def test_training_is_given_its_objective_and_who_scores_the_tokens(given, objective, own):
    told = objective != "step_by_step"
    teacher = ["--teacher_model", "t", "--few_shot", "shots.jsonl", "--base_url", "http://localhost:1/v1"] if told else []
    found = given(*TRAIN, "--objective", objective, *flags(own), *teacher)
    settings = msgspec.to_builtins(found["settings"])
    assert settings["objective"] == objective
    expected = {name.removeprefix("teacher_"): value for name, value in own.items()}
    assert {name: settings[objective][name] for name in expected} == expected
    if told:
        assert (found["teacher"].model, found["teacher"].server.urls) == ("t", ("http://localhost:1/v1",))
    assert [shot.question for shot in found["shots"]] == (["1 + 1?"] if told else [])


def test_generating_is_given_what_was_said(given):
    asked = {"max_new_tokens": 77, "do_sample": True, "temperature": 0.9, "seed": 5, "thinking": True}
    plain = {"num_samples": 4, "batch_size": 3, "enough": 2, "hint": True, "max_tokens_total": 999, "cache": True}
    more = {"escalate": 6, "escalate_temperature": 1.1, "escalate_max_new_tokens": 88}
    others = {"second_teacher": "u", "few_shot": "shots.jsonl"}
    words = ["generate", "--teacher_model", "t", "--input_file", "q.jsonl", "--output_file", "t.jsonl", *ASKED]
    found = given(*words, *flags({**asked, **plain, **more, **others}), *HERE)
    settings = msgspec.to_builtins(found["settings"])
    assert {name: settings["sampling"][name] for name in asked} == asked
    assert {name: settings[name] for name in plain} == plain
    assert list(settings["escalate"].values()) == list(more.values())
    assert (settings["system_prompt"], found["trust_remote_code"], found["load_in_4bit"]) == ("Add.", True, False)
    assert (found["model"]["name"], found["second"].model["name"]) == ("t", "u")
    assert [shot.question for shot in found["shots"]] == ["1 + 1?"]
    assert [(one.text, one.gold) for one in found["words"][0]] == [("2 + 3?", "5")]
    assert found["verify"].hinted
    assert given(*words, "--escalate", "6")["settings"].escalate == Escalate(6, 0.8)
    prices = {"base_url": "http://localhost:1/v1", "price_prompt": 1.0, "price_completion": 2.0, "max_cost": 3.5}
    plain = {"concurrency": 3, "timeout": 9.0, "api_key_env": "MY_KEY"}
    served = given(*words, *flags({**prices, **plain}))
    assert (served["settings"].max_cost, served["server"].money(10**6, 10**6)) == (3.5, 3.0)
    assert {name: getattr(served["server"], name) for name in plain} == plain


@pytest.mark.parametrize("flag", ["--escalate_temperature", "--escalate_max_new_tokens"])
def test_what_is_said_of_samples_that_nobody_asks_for_is_a_usage_error(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text('{"question": "2 + 3?", "answer": "5"}\n')
    words = ["generate", "--teacher_model", "t", "--input_file", "q.jsonl", "--output_file", "t.jsonl", flag, "2"]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UsageError)
    assert str(error) == f"{flag} is about the samples of --escalate N"


def test_evaluating_is_given_what_was_said(given):
    words = ["evaluate", "--base_model", "m", "--test_file", "q.jsonl", "--output_file", "p.jsonl", *ASKED]
    plain = {"max_new_tokens": 77, "num_samples": 3, "temperature": 0.9, "batch_size": 5, "thinking": True}
    found = given(*words, *flags(plain), *HERE)
    sampling = found["sampling"]
    assert (sampling.max_new_tokens, sampling.temperature, sampling.do_sample, sampling.thinking) == (77, 0.9, True, True)
    assert (found["num_samples"], found["batch_size"], found["system_prompt"]) == (3, 5, "Add.")
    assert (found["trust_remote_code"], found["load_in_4bit"]) == (True, False)
    assert [(one.text, one.gold) for one in found["words"][1]] == [("2 + 3?", "5")]


def test_verifying_is_given_what_was_said(given):
    plain = {
        "vote": True, "kind": "text", "max_words": 9, "max_steps": 3, "max_per_question": 2, "prefer": "short",
        "short_share": 0.5, "decontaminate": "q.jsonl", "decontaminate_ngram": 7, "hinted": True,
    }  # fmt: skip
    words = ["verify", "--traces", "cot.jsonl", "--output", "v.jsonl", "--no_steps", "--marker", "RESULT>", "--audit", "a.jsonl"]
    found = given(*words, "--questions", "q.jsonl", *ASKED[:4], *flags(plain))
    settings = msgspec.to_builtins(found["words"][3])
    assert {name: settings[name] for name in plain} == plain
    assert (settings["steps"], settings["markers"]) == (False, ("RESULT>",))
    assert (found["audit"], [one.gold for one in found["words"][0]]) == (Path("a.jsonl"), ["5", "6"])
