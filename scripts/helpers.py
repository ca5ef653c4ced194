"""What the three scripts share, and the reader of final answers for scripts of your own."""

import sys
from importlib import import_module
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
if SOURCE.is_dir() and str(SOURCE) not in sys.path:
    sys.path.insert(0, str(SOURCE))


def run(command: str) -> None:
    """Run one command of cotdistill; a missing package is one sentence that names the cure."""
    from cotdistill.interrupt import while_loading

    with while_loading():
        try:
            from cotdistill.cli import script

            function = getattr(import_module(f"cotdistill.commands.{command}"), command)
        except ModuleNotFoundError as error:
            sys.exit(f"error: the package {error.name} is missing: pip install -e {SOURCE.parent}")
        script(function)


def extract_final_answer(text: str) -> str:
    """The answer after the last ``Final Answer:`` (or another marker) as written; empty if there is none."""
    from cotdistill.answer import find_answer

    return find_answer(text).text
