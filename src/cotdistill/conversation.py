"""Conversation: questions typed on a terminal, answered by the student of a run."""

import sys
from pathlib import Path

from cotdistill.card import read_card
from cotdistill.engines import Request, Sampling
from cotdistill.engines.opening import open_engine
from cotdistill.errors import DataError
from cotdistill.prompt import SYSTEM_PROMPT, messages_for
from cotdistill.question import Question
from cotdistill.recipe import load_recipe
from cotdistill.table import plain


def converse(directory: Path, *, base: bool, max_new_tokens: int) -> None:
    """Read a question a line from stdin, print the answer; each question stands alone, as in training.

    Raises ``DataError`` where the run has no adapter yet.
    """
    adapter = directory / "5_adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise DataError(f"{directory} has no trained adapter yet; finish the run: cotdistill run RECIPE")
    card = read_card(adapter)
    models = load_recipe(directory / "recipe.yaml").models
    engine = open_engine(
        models.student, engine="transformers", adapter=None if base else adapter, batch_size=1,
        load_in_4bit=models.load_in_4bit, trust_remote_code=models.trust_remote_code,
    )  # fmt: skip
    system = card.system_prompt if card else SYSTEM_PROMPT
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            return
        request = Request("chat", messages_for(Question("chat", line.strip()), system))
        for completion in engine.complete([request], Sampling(max_new_tokens=max_new_tokens)):
            print("\n".join(plain(part) for part in completion.text.split("\n")), flush=True)
