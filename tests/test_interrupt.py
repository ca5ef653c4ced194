"""Interrupts: a command ends in time, with its files in order, whatever it is in the middle of."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SRC = str(Path(__file__).resolve().parent.parent / "src")

PROGRAM = f"""
import sys; sys.path.insert(0, {SRC!r})
import hashlib, time
from cotdistill.cli import guard

def python():
    print("on", flush=True)
    time.sleep(60)

def native():  # one call into C that nothing interrupts, as a long backward pass is
    print("on", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)

def tidy():
    try:
        python()
    finally:
        time.sleep(float(sys.argv[2]))
        print("tidied", flush=True)

guard(globals()[sys.argv[1]])
"""


def stopped(*words: str, signals: list[int]) -> tuple[int, str, str, float]:
    """Exit code, stdout, stderr and seconds of a program that got these signals, a tenth of a second apart."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "on\n"
    begin = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - begin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_lets_the_command_tidy_up_and_says_how_to_go_on(number):
    code, out, err, _ = stopped("tidy", "0.5", signals=[number])
    assert (code, out) == (130, "tidied\n")
    assert err == "interrupted; the same command goes on from here\n"


def test_a_second_signal_ends_the_tidying_at_once():
    code, out, err, seconds = stopped("tidy", "30", signals=[signal.SIGINT, signal.SIGINT])
    assert (code, out) == (130, "")
    assert seconds < 4  # that many a first signal alone would have given it
    assert err == "interrupted; the same command goes on from here\n"


def test_a_terminal_that_hangs_up_with_nobody_left_to_read_ends_the_command_all_the_same():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "tidy", "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 130


def test_a_command_under_nohup_goes_on():
    quick = PROGRAM.replace("time.sleep(60)", "time.sleep(1)")
    process = subprocess.Popen(
        [sys.executable, "-c", quick, "python"], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


@pytest.mark.parametrize("words", [("native",), ("tidy", "60")], ids=" ".join)
def test_what_cannot_be_interrupted_or_tidies_too_long_is_over_within_five_seconds(words):
    code, _, err, seconds = stopped(*words, signals=[signal.SIGTERM])
    assert code == 130
    assert seconds < 5
    assert err == "interrupted; the same command goes on from here\n"


FORKING = f"""
import sys; sys.path.insert(0, {SRC!r})
import os, signal, time
from cotdistill import interrupt

interrupt.GRACE = 0.2
interrupt.stop_in_time()
ready, begun = os.pipe()
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.write(begun, b"!")
    time.sleep(60)
os.read(ready, 1)
os.kill(child, signal.SIGTERM)
assert os.waitpid(child, 0)[1] == 0
time.sleep(1)
print("went on")
"""


def test_a_signal_to_a_forked_child_is_none_to_its_parent():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]  # of fork beside threads
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_a_signal_that_was_turned_off_before_the_start_stays_off():
    off = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    start = [sys.executable, "-c", off]
    process = subprocess.Popen([*start, sys.executable, "-c", PROGRAM, "tidy", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(10) == 130
