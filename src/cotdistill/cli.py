"""The command line: ``cotdistill COMMAND``, and one entry point for each of the scripts.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 the gate said no,
130 interrupted.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cotdistill import __version__
from cotdistill.commands import evaluate, export, generate, init, inspect, models, plan, runs, train, verify
from cotdistill.errors import CotdistillError
from cotdistill.interrupt import EXIT_CODE, INTERRUPTED, stop_in_time
from cotdistill.shown import visible
from cotdistill.storage.disk import cannot
from cotdistill.streams import open_streams

SETTINGS: dict[str, Any] = {"token_normalize_func": lambda token: token.replace("-", "_")}
"""``--num-epochs`` is ``--num_epochs``."""

# Plain help: the boxed one cuts off the names of long flags on an 80-column terminal.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False}

app = typer.Typer(
    context_settings=SETTINGS, no_args_is_help=True, **PLAIN,
    help="Chain-of-thought distillation: out comes a measurably better student, or the answer: keep the base.",
)  # fmt: skip
app.command()(init.init)
app.command()(plan.plan)
app.command()(runs.run)
app.command()(generate.generate)
app.command()(verify.verify)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(export.export)
app.command()(inspect.status)
app.command()(inspect.diff)
app.command()(runs.report)
app.command()(runs.compare)
app.command()(runs.view)
app.command()(runs.chat)
app.add_typer(models.app, name="models")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cotdistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Chain-of-thought distillation: out comes a measurably better student, or the answer: keep the base."""


def main() -> None:
    """Entry point of ``cotdistill``."""
    guard(app)


def script(command: Callable[..., None]) -> None:
    """Entry point of a script: the one command, under the script's own name."""
    single = typer.Typer(context_settings=SETTINGS, **PLAIN)
    single.command()(command)
    guard(single)


def guard(program: Callable[[], object]) -> None:
    """Run a program and leave with the right exit code; what the user can fix is one sentence, no traceback."""
    open_streams()
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    quiet = "--quiet" in sys.argv
    logging.basicConfig(format="%(message)s", level=logging.ERROR if quiet else logging.WARNING, stream=sys.stderr)
    logging.getLogger("cotdistill").setLevel(logging.ERROR if quiet else logging.INFO)
    # Libraries' remarks on their own future are not for our users; their errors reach us as exceptions.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="peft")
    stop_in_time()
    code: object = 0
    try:
        program()
    except SystemExit as error:
        code = error.code
        if code == EXIT_CODE:  # typer turns Ctrl-C into this
            print(INTERRUPTED, file=sys.stderr)
    except CotdistillError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        code = EXIT_CODE
    except ModuleNotFoundError as error:
        print(f"error: the package {error.name} is missing: pip install -e .", file=sys.stderr)
        code = 1
    except MemoryError:
        print("error: out of memory; use a smaller --batch_size or a smaller model", file=sys.stderr)
        code = 1
    except OSError as error:
        if "COTDISTILL_TRACEBACK" in os.environ:
            raise
        print(f"error: {visible(str(cannot('use', Path(str(error.filename or 'a file')), error)))}", file=sys.stderr)
        code = 1
    except Exception as error:
        if "COTDISTILL_TRACEBACK" in os.environ:
            raise
        what = _out_of_memory() if "out of memory" in str(error) else f"{type(error).__name__}: {visible(str(error))}"
        print(f"error: {what} (COTDISTILL_TRACEBACK=1 shows where)", file=sys.stderr)
        code = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        if not code:
            print(f"error: {cannot('write', Path('the output'), error)}", file=sys.stderr)
        code = code or 1
    sys.stderr.flush()
    # Engines keep threads of their own in native code, which a normal exit would wait for or trip over;
    # every file is closed by now.
    os._exit(code if isinstance(code, int) else int(bool(code)))


def _at_home(argument: str) -> str:
    """``--output_file=~/x`` as ``--output_file ~/x``: in the first a shell leaves the ~ alone."""
    flag, _, value = argument.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if flag.startswith("--") and value.startswith("~/") else argument


def _out_of_memory() -> str:
    return (
        "the device is out of memory; try --batch_size 1 --gradient_accumulation_steps 8, "
        "--gradient_checkpointing, a shorter --max_length or a smaller model"
    )


if __name__ == "__main__":
    main()
