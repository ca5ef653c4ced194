"""What a manifest says of the machine, the libraries and the code, found out without loading any of them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cotdistill import machine as machine_module
from cotdistill.machine import git_revision, machine, peak_memory, versions


def test_the_machine_has_a_processor_cores_and_memory() -> None:
    here = machine()
    assert here.cpu
    assert here.cores >= 1
    assert here.memory_gib is None or here.memory_gib > 0.1


def test_gpus_are_named_by_the_driver_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 12\n")
    monkeypatch.setattr(machine_module, "_NVIDIA", tmp_path)
    assert machine().gpus == ("NVIDIA H100 80GB HBM3",) * 2


def test_a_torch_that_is_loaded_anyway_is_asked_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda _: "Some GPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(machine_module, "_NVIDIA", tmp_path / "none")
    assert machine().gpus == ("Some GPU",)


def test_the_most_memory_is_a_processes_own_not_that_of_the_one_that_started_it() -> None:
    held = b"x" * (300 << 20)
    code = "from cotdistill.machine import peak_memory; print(peak_memory())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(out) < len(held) < peak_memory()


def test_versions_are_found_without_importing_anything() -> None:
    code = "import sys; from cotdistill.machine import versions; print(versions()['python'], 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [sys.version.split()[0], "False"]
    found = versions(["msgspec", "no-such-library"])
    assert set(found) == {"python", "platform", "cotdistill", "msgspec"}


def test_the_revision_is_this_checkouts_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "machine.py"
    source.write_text("")
    monkeypatch.setattr(machine_module, "__file__", str(source))
    assert git_revision() is None
    git("init")
    git("commit", "--allow-empty", "-m", "someone else's")
    assert git_revision() is None
    git("add", ".")
    git("commit", "-m", "ours")
    assert git_revision() == git("rev-parse", "HEAD")
    source.write_text("# changed")
    assert git_revision() == git("rev-parse", "HEAD") + "-dirty"


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert git_revision() is None
