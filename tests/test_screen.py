"""The live screen and the bars on it, on a terminal that is none."""

import io
import logging
import sys

import pytest
from rich.console import Console

from cotdistill import progress, screen
from cotdistill.progress import Bar
from cotdistill.screen import Screen


@pytest.fixture
def terminal() -> Console:
    return Console(force_terminal=True, file=io.StringIO(), width=120, legacy_windows=False)


def shown(what: Screen) -> str:
    paper = Console(file=io.StringIO(), width=120)
    paper.print(what)
    return paper.file.getvalue()


def test_a_screen_says_of_every_stage_whether_it_is_done_running_or_owed(terminal, capsys):
    with Screen({"plan/base": True, "traces": False, "training": False}, title="quick\x1bstart", console=terminal) as all_:
        with Bar("traces", total=10, done=2) as bar:
            bar.step("3 of 3 right\x1b[2J", tokens=40)
            lines = shown(all_).splitlines()
        after = shown(all_)
    assert "quick\\x1bstart" in lines[0]
    assert [line.split()[:2] for line in lines[1:4]] == [["plan/base", "done"], ["traces", "running"], ["training", "owed"]]
    assert "3/10" in lines[2]
    assert "left" in lines[2]
    assert "3 of 3 right\\x1b[2J" in lines[2]
    assert "tokens/s" in lines[2]
    assert "GiB" in lines[-1]
    assert "running" not in after
    assert capsys.readouterr().out == ""


def test_a_bar_without_a_screen_brings_its_own_and_takes_it_away(terminal, monkeypatch):
    monkeypatch.setattr(screen, "Console", lambda **_: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar("traces", total=2) as bar:
        assert screen.current is not None
        bar.step("1 right")
    assert screen.current is None
    assert "1 right" in terminal.file.getvalue()


def test_a_stage_that_breaks_off_is_owed_again(terminal):
    with Screen(["training"], console=terminal) as all_:
        with pytest.raises(KeyboardInterrupt), Bar("training", total=5) as bar:
            bar.step("loss 2")
            raise KeyboardInterrupt
        assert "owed" in shown(all_)


def test_the_number_of_rows_may_become_known_late(terminal):
    with Screen(["training"], console=terminal) as all_, Bar("training", total=0) as bar:
        bar.total(39, 12)
        bar.step("loss 0.4")
        assert "12/39" in shown(all_)


def test_what_is_logged_meanwhile_goes_by_above_the_screen_and_nothing_stays_changed(terminal, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        with Screen(["traces"], console=terminal):
            logging.getLogger("cotdistill").warning("a model speaks")
        assert handler.stream is stream
    finally:
        logging.getLogger().removeHandler(handler)
    assert stream.getvalue() == ""
    assert "a model speaks" in terminal.file.getvalue()


def test_without_a_terminal_a_line_comes_every_half_minute_and_one_at_the_end(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Bar("traces", total=4) as bar:
        for row in range(1, 5):
            bar.step(f"{row} right", tokens=80)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("traces: 2/4")
    assert "tokens/s; 2 right" in lines[0]
    assert lines[-1].startswith("traces: 4/4 in ")
    assert len(lines) == 2


def test_quiet_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar("traces", total=1, quiet=True) as bar:
        bar.step("1 right")
    assert capsys.readouterr() == ("", "")
