"""The command line: quick to answer, clear about what went wrong."""

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from cotdistill import __version__
from cotdistill.commands.evaluate import evaluate
from cotdistill.commands.generate import generate
from cotdistill.commands.train import train
from cotdistill.errors import UsageError
from cotdistill.recipe import decode_recipe, load_recipe
from cotdistill.storage.manifest import beside

SRC = str(Path(__file__).resolve().parent.parent / "src")


def cotdistill(*words: str, code: str = "from cotdistill.cli import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {SRC!r}); {code}", *words],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_help_imports_none_of_the_heavy_libraries():
    heavy = "torch transformers peft scipy xllamacpp reasoning_gym numpy"
    code = (
        "import cotdistill.cli, cotdistill.reporting.table, cotdistill.stages.verify, cotdistill.verdict; "
        f"print([m for m in {heavy!r}.split() if m in sys.modules])"
    )
    assert cotdistill(code=code).stdout.strip() == "[]"


def test_help_answers_quickly():
    cotdistill("--help")  # bytecode is compiled once
    best = min(_seconds("--help") for _ in range(3))
    # The bar is 0.4 s on an idle machine; a test machine is seldom idle.
    assert best < 1.2


def _seconds(*words: str) -> float:
    start = time.monotonic()
    assert cotdistill(*words).returncode == 0
    return time.monotonic() - start


def test_version_is_printed_to_stdout():
    assert cotdistill("--version").stdout == f"cotdistill {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["report", "runs/none"], 1, "no run directory"),
        (["models", "pull", "gpt-9", "--to", "x"], 1, "smollm2-135m-instruct"),
        (["train"], 2, "student_model"),
        (["export", "runs/none", "--quant", "q9"], 2, "'q9' is not one of 'q8_0', 'q4_k_m', 'f16'"),
        (["models", "pull", "smollm2-135m-instruct", "--format", "q"], 2, "'q' is not one of 'gguf', 'hf'"),
        (["report", "runs/none", "--format", "q"], 2, "'q' is not one of 'table', 'markdown', 'csv', 'latex'"),
    ],
)
def test_failures_have_their_exit_code_and_no_traceback(words, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = cotdistill(*words)
    assert outcome.returncode == code
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


def test_models_list_names_the_catalogue():
    assert "qwen2.5-coder-1.5b-instruct" in cotdistill("models", "list").stdout


def test_a_recipe_with_an_unknown_key_is_refused_by_name(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nmodels: {teacher: a, student: b, colour: red}\n")
    outcome = cotdistill("run", str(recipe))
    assert outcome.returncode == 1
    assert "colour" in outcome.stderr


def test_dry_run_prints_the_resolved_recipe(tmp_path):
    shipped = Path(SRC).parent / "recipes/quickstart.yaml"
    outcome = cotdistill("run", str(shipped), "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert "learning_rate" in outcome.stdout
    assert "seed: 20261124" in outcome.stdout


def test_a_run_is_given_its_name_and_seed_and_skips_its_plan(tmp_path):
    shipped = Path(SRC).parent / "recipes/quickstart.yaml"
    outcome = cotdistill("run", str(shipped), "--dry-run", "--name", "other", "--seed", "7", "--skip_plan")
    assert outcome.returncode == 0, outcome.stderr
    (tmp_path / "r.yaml").write_text(outcome.stdout)
    made, plain = load_recipe(tmp_path / "r.yaml"), load_recipe(shipped)
    assert (made.name, made.plan.skip, made.train.seed, made.questions.train.seed) == ("other", True, 7, 7)
    assert made.questions.held_out == plain.questions.held_out


def test_a_library_that_finds_no_file_handle_is_one_sentence_too():
    code = "from cotdistill.cli import guard; guard(lambda: (_ for _ in ()).throw(OSError(24, 'many', 'x.lock')))"
    outcome = cotdistill(code=code)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: cannot use x.lock: too many files are open; raise the limit")


@pytest.mark.parametrize(
    ("command", "promised"),
    [
        (generate, {"max_new_tokens": 512, "temperature": 0.2, "do_sample": False, "num_samples": 1}),
        (train, {"num_epochs": 3, "batch_size": 4, "learning_rate": 2e-4, "max_length": 1024, "lora_r": 8, "lora_alpha": 16,
                 "lora_dropout": 0.05, "gradient_accumulation_steps": 4}),
        (evaluate, {"max_new_tokens": 512, "temperature": 0.0}),
    ],
)  # fmt: skip
def test_the_promised_defaults_hold(command, promised):
    assert {name: inspect.signature(command).parameters[name].default for name in promised} == promised


def defaults_of(command, names):
    """Those of the ``names`` that a command has."""
    return {name: one.default for name, one in inspect.signature(command).parameters.items() if name in names}


def test_a_recipe_has_the_defaults_of_the_commands():
    recipe = decode_recipe({"name": "n", "models": {"teacher": "t", "student": "s"},
                            "questions": {"train": {"file": "a"}, "held_out": {"file": "b"}}}, "here")  # fmt: skip
    plain = msgspec.to_builtins(recipe.train)
    lora = plain.pop("lora")
    plain |= {f"lora_{name}": lora[name] for name in ("r", "alpha", "dropout")}
    plain |= {name: lora[name] for name in ("use_dora", "use_rslora")}
    for objective in ("step_by_step", "on_policy", "offline_kd", "reject_on_student", "auto"):
        del plain[objective]
    assert defaults_of(train, plain) == plain
    sampling = msgspec.to_builtins(recipe.generate.sampling)
    del sampling["top_p"]  # which no command has
    assert defaults_of(generate, sampling) == sampling
    assert recipe.evaluate.max_new_tokens == inspect.signature(evaluate).parameters["max_new_tokens"].default


def test_a_script_without_its_packages_says_what_to_install():
    script = Path(SRC).parent / "scripts/gen_cot.py"
    done = subprocess.run([sys.executable, "-S", script, "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: the package typer is missing: pip install -e {script.parent.parent}\n"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """What a shell says of a line in which ``COT`` stands for the command."""
    command = f"{sys.executable} -c 'import sys; sys.path.insert(0, \"{SRC}\"); from cotdistill.cli import main; main()'"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("COT", command)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("COT models list | head -1", 0), ("COT models list | true", 0), ("COT run {recipe} --dry-run | head -1", 0),
        ("COT models list >&-", 0), ("COT models list >&- 2>&- <&-", 0), ("COT run nowhere.yaml 2>&-", 2),
        ("COT run nowhere.yaml 2>&1 | true", 2), ("COT models list > /dev/full", 1),
    ],
)  # fmt: skip
def test_a_reader_that_leaves_or_was_never_there_is_no_failure_and_no_traceback(line, code):
    done = shell(line.format(recipe=Path(SRC).parent / "recipes/quickstart.yaml"))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    if "full" in line:
        assert done.stderr.startswith("error: cannot ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("start", ["import cotdistill.__main__ as m; m.main()", "import helpers; helpers.run('generate')"])
def test_ctrl_c_while_a_command_loads_is_no_traceback(start):
    """The signal comes as typer is imported, before anything of ours listens for it."""
    interrupting = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    scripts = Path(SRC).parent / "scripts"
    done = subprocess.run(
        [sys.executable, "-c", f"{interrupting}{start}"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{SRC}:{scripts}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted; the same command goes on from here\n")


def test_a_home_behind_an_equals_sign_is_expanded(tmp_path):
    (tmp_path / "q.jsonl").write_text("[]")
    done = subprocess.run(
        [sys.executable, "-m", "cotdistill", "verify", "--traces=~/q.jsonl", "--output=~/v.jsonl"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": SRC},
    )  # fmt: skip
    assert done.returncode == 1
    assert str(tmp_path / "q.jsonl") in done.stderr


def test_an_empty_path_is_refused_in_a_sentence():
    with pytest.raises(UsageError, match=r"'\.' names no file; name one"):
        beside(Path(""), "manifest.json")
