"""Conversation: questions typed on a terminal, answered by a run's base and student side by side, as they write.

One model is in memory: the base is the student without its adapter. Both are greedy, and each question stands alone,
as in training.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from cotdistill.card import ADAPTER_CONFIG, read_card
from cotdistill.download import local_model
from cotdistill.errors import DataError
from cotdistill.prompt import SYSTEM_PROMPT, messages_for
from cotdistill.question import Question
from cotdistill.recipe import load_recipe
from cotdistill.run_directory import RunDirectory
from cotdistill.shown import visible


def converse(directory: Path, *, base: bool = True, student: bool = True, max_new_tokens: int) -> None:
    """Read a question a line from stdin and write what each model answers to stdout; an empty line ends it.

    Raises ``DataError`` where the run has no adapter yet.
    """
    run = RunDirectory(directory)
    adapter = run.adapter
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise DataError(f"{directory} has no trained adapter yet; finish the run: cotdistill run RECIPE")
    from cotdistill.adapter import load_adapter
    from cotdistill.hardware import place
    from cotdistill.model import load_model

    card = read_card(adapter)
    system = card.system_prompt if card else SYSTEM_PROMPT
    models = load_recipe(run.recipe).models
    placement, weights = place(models.load_in_4bit, "auto"), local_model(models.student, want="hf")
    model = load_model(
        weights, placement, trust_remote_code=models.trust_remote_code, thinking=bool(card and card.thinking)
    )
    adapted = load_adapter(model, adapter)
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            return
        prompt = model.template.prompt_ids(messages_for(Question("chat", line.strip()), system))
        room = min(max_new_tokens, model.context_length - len(prompt))
        if room < 1:
            print(f"the question has {len(prompt)} tokens, more than the model can hold", file=sys.stderr)
            continue
        voices: dict[str, Iterator[str]] = {}
        if base:
            voices["base"] = streamed(model, adapted, prompt, room, as_base=True)
        if student:
            voices["student"] = streamed(model, adapted, prompt, room, as_base=False)
        show(voices, sys.stdout)


def streamed(model: Any, adapted: Any, prompt: Sequence[int], limit: int, *, as_base: bool) -> Iterator[str]:
    """The greedy answer in pieces, up to the end of the turn or ``limit`` tokens. ``adapted`` is peft's model; for
    the base its adapter is off during each step only, so that the student's answer may be computed in between."""
    import torch

    answer: list[int] = []
    told, text = 0, ""
    given, cache = torch.tensor([list(prompt)]), None
    device = adapted.get_input_embeddings().weight.device
    while len(answer) < limit:
        with torch.inference_mode(), adapted.disable_adapter() if as_base else nullcontext():
            output = adapted(input_ids=given.to(device), cache=cache, use_cache=True)
        token, cache = int(output.logits[0, -1].argmax()), output.cache
        if token in model.template.stop_ids:
            break
        answer.append(token)
        given = torch.tensor([[token]])
        text = model.tokenizer.decode(answer, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if not text.endswith("\ufffd"):  # else a character may not be whole yet
            yield text[told:]
            told = len(text)
    if text[told:]:
        yield text[told:]


def show(voices: Mapping[str, Iterator[str]], out: TextIO) -> None:
    """Write the answers as they come, made safe: beside each other on a terminal, one after the other elsewhere."""
    if len(voices) > 1 and out.isatty():
        _side_by_side(voices, out)
        return
    for name, pieces in voices.items():
        if len(voices) > 1:
            print(f"{name}:", file=out)
        for piece in pieces:
            print(visible(piece), end="", file=out, flush=True)
        print(file=out, flush=True)


def _side_by_side(voices: Mapping[str, Iterator[str]], out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    texts: dict[str, str] = dict.fromkeys(voices, "")

    def table() -> Table:
        shown = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        for name in texts:
            shown.add_column(name, ratio=1, overflow="fold")
        shown.add_row(*(Text(visible(text)) for text in texts.values()))
        return shown

    speaking = dict(voices)
    with Live(get_renderable=table, console=Console(file=out), refresh_per_second=8):
        while speaking:  # a token each in turn
            for name, pieces in list(speaking.items()):
                piece = next(pieces, None)
                if piece is None:
                    del speaking[name]
                else:
                    texts[name] += piece
