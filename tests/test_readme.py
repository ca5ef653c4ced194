"""The README: what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROMISED = re.findall(r"`(tests/\S+\.py)::(\w+)`", README)


def test_the_five_promises_name_their_tests():
    table = README.partition("## Promises")[2].partition("\n## ")[0]
    assert sum(line.startswith("| ") for line in table.splitlines()) == 1 + 5
    assert len(PROMISED) >= 5


@pytest.mark.parametrize(("file", "name"), PROMISED)
def test_a_promise_is_kept_by_a_test_that_exists(file, name):
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http|#)([^)#]+)\)", README))))
def test_a_linked_file_exists(path):
    assert (ROOT / path).exists()


def test_every_flag_is_one_of_a_command():
    from typer.main import get_command

    from cotdistill.cli import app

    known = {flag for command in get_command(app).commands.values() for flag in _flags(command)}
    written = {flag.replace("-", "_").replace("__", "--", 1) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", README)}
    assert written - {"--help", "--index_url"} <= known  # the latter is pip's


def _flags(command):
    inner = getattr(command, "commands", {}).values()
    own = {flag for parameter in command.params for flag in [*parameter.opts, *parameter.secondary_opts]}
    return own.union(*map(_flags, inner))


SCRIPTS = {"gen_cot": "generate", "train_cot_lora": "train", "eval_cot": "evaluate"}
LINES = re.compile(r"^(?:\S+=\S+ )*(?:(?:python|torchrun|accelerate launch)[^\n]*? scripts/(\w+)\.py|cotdistill (\w+))(.*)$", re.M)
WRITTEN = [
    (path.name, SCRIPTS.get(script, command), re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", rest))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for script, command, rest in LINES.findall(path.read_text(encoding="utf-8").replace("\\\n", " "))
]


def test_every_command_that_is_written_out_has_its_flags():
    from typer.main import get_command

    from cotdistill.cli import app

    commands = get_command(app).commands
    assert {"generate", "train", "evaluate", "verify", "run", "export"} <= {command for _, command, _ in WRITTEN}
    for file, command, flags in WRITTEN:
        known = _flags(commands[command]) | {"--help"}
        assert {flag.replace("-", "_").replace("__", "--", 1) for flag in flags} <= known, (file, command)
