"""``cotdistill status`` and ``cotdistill diff``: look at runs without changing them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cotdistill.difference import Change, Difference
    from cotdistill.status import StageStatus, Status

Made = Annotated[Path, typer.Argument(help="A run directory, or what generate, train or evaluate wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def status(run: Made, json: Json = False) -> None:
    """Say what is done and what is owed, who is working on it, what it took so far and what to do next."""
    from cotdistill.status import status_of

    found = status_of(run)
    if json:
        _print_json(found)
        return
    for line in _status_lines(found):
        _say(line)


def diff(run_a: Made, run_b: Made, json: Json = False) -> None:
    """Say what two runs were made with and what came out otherwise: settings, inputs, versions, verdicts, answers."""
    from cotdistill.difference import difference

    found = difference(run_a, run_b)
    if json:
        _print_json(found)
        return
    for line in _difference_lines(found):
        _say(line)


def _status_lines(found: "Status") -> list[str]:
    done = sum(stage.done for stage in found.stages)
    lines = [f"{found.path}: {done} of {len(found.stages)} stages done"]
    if found.holder:
        said = {"running": "at work", "gone": "gone, it left its lock", "elsewhere": "said to be at work"}
        holder = f"process {found.holder.pid} on {found.holder.host} (since {found.holder.started})"
        lines.append(f"{holder}: {said[found.holder_state or 'gone']}")
    width = max(len("total"), *(len(stage.name) for stage in found.stages))
    lines.append(f"{'':{width}}  state  {'rows':>13}  failed  missing   seconds      tokens")
    lines += [_stage_line(stage, width) for stage in found.stages]
    tokens = found.prompt_tokens + found.completion_tokens
    lines.append(f"{'total':{width}}  {'':5}  {'':13}  {'':6}  {'':7}  {found.seconds:8.1f}  {tokens:10}".rstrip())
    if found.money is not None:
        lines.append(f"money: {found.money:g}")
    return [*lines, f"next: {found.next}"]


def _stage_line(stage: "StageStatus", width: int) -> str:
    rows = "" if stage.present is None else f"{stage.present}/{'?' if stage.planned is None else stage.planned}"
    missing = "" if not stage.missing else stage.missing
    tokens = stage.prompt_tokens + stage.completion_tokens
    line = (
        f"{stage.name:{width}}  {'done' if stage.done else 'owed':5}  {rows:>13}  {stage.failed or '':>6}  "
        f"{missing:>7}  {stage.seconds or '':>8}  {tokens or '':>10}  {stage.note}"
    )
    return line.rstrip()


def _difference_lines(found: "Difference") -> list[str]:
    lines = [f"a: {found.a}", f"b: {found.b}"]
    for title, changes in (("settings", found.settings), ("inputs", found.inputs), ("machine", found.machine)):
        lines += [f"{title}: {'the same' if not changes else f'{len(changes)} differ'}", *_listed(changes)]
    if verdicts := found.verdicts:
        lines.append(f"verdicts: {verdicts.changed} changed, {_only(verdicts.only_a, verdicts.only_b)}")
        lines += [f"  {status}: {a} -> {b}" for status, (a, b) in verdicts.counts.items()]
        lines += _listed(verdicts.listed, verdicts.changed)
    for name, model in found.models.items():
        counts = f"{model.gained} gained, {model.lost} lost of {model.both}, {_only(model.only_a, model.only_b)}"
        lines += [f"{name}: {counts}", *_listed(model.listed, model.gained + model.lost)]
    return lines


def _listed(changes: "list[Change]", total: int = 0) -> list[str]:
    lines = [f"  {what}: {a} -> {b}" for what, a, b in changes]
    return [*lines, f"  ... and {total - len(changes)} more"] if total > len(changes) else lines


def _only(a: int, b: int) -> str:
    return f"{a} only in a, {b} only in b"


def _say(line: str) -> None:
    from cotdistill.shown import one_line

    typer.echo(one_line(line))


def _print_json(found: object) -> None:
    from json import dumps

    import msgspec

    typer.echo(dumps(msgspec.to_builtins(found)))  # in ASCII: ids are a user's text
