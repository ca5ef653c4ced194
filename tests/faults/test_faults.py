"""A short form of the fault suite; ``make faults`` runs the full one, which mounts a disk of its own."""

import re
import subprocess
import sys
from pathlib import Path


def test_whatever_stops_a_run_no_row_is_lost_or_doubled():
    suite = Path(__file__).with_name("suite.py")
    done = subprocess.run([sys.executable, suite, "--short"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(faults injected|rows \w+): (\d+)$", done.stdout, re.MULTILINE))
    assert int(counts["faults injected"]) >= 12
    assert int(counts["rows planned"]) > 0
    assert counts["rows lost"] == counts["rows doubled"] == "0"
