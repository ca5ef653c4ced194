"""Machine: what the work is done with: hardware, libraries, and the revision of this code.

    {"machine": {"cpu": "AMD EPYC 7763", "cores": 8, "memory_gib": 62.8, "gpus": ["NVIDIA H100 80GB HBM3"]},
     "versions": {"python": "3.11.7", "torch": "2.13.0"}, "git_revision": "8545b0e..."}

Nothing is imported to find out, torch least of all. No name of a host or a user is read.
"""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cotdistill import __version__

_LIBRARIES = (
    "torch", "transformers", "peft", "accelerate", "safetensors", "bitsandbytes", "xllamacpp", "gguf", "vllm",
    "msgspec", "scipy", "datasets", "reasoning-gym", "httpx", "math-verify",
)  # fmt: skip
_CPUINFO = Path("/proc/cpuinfo")
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """The most bytes this process has held so far; 0 where the system does not say."""
    if held := _field(_STATUS, "VmHWM"):  # on Linux ru_maxrss is carried over exec: it may be what a parent held
        return int(held.split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB


def available_memory() -> int | None:
    """Bytes of memory that are free, or could be at once; None where the system does not say."""
    size = _field(Path("/proc/meminfo"), "MemAvailable").removesuffix(" kB")
    return int(size) * 1024 if size.isdecimal() else None


class Machine(msgspec.Struct, frozen=True):
    """``cores`` are those this process may use; ``gpus`` those of the machine, empty also where none can be seen
    without loading a library. ``cpu`` is the model's name, ``memory_gib`` all memory there is; None: unknown."""

    cpu: str
    cores: int
    memory_gib: float | None
    gpus: tuple[str, ...] = ()


class Origin(msgspec.Struct, frozen=True):
    """Who made a file: the machine, the versions, and the commit (None outside a checkout)."""

    machine: Machine
    versions: dict[str, str]
    git_revision: str | None


@functools.cache
def origin() -> Origin:
    """The origin of whatever this process makes."""
    return Origin(machine(), versions(), git_revision())


def machine() -> Machine:
    """The machine this process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        memory = None
    return Machine(_cpu(), cores, memory, _gpus())


def _cpu() -> str:
    return _field(_CPUINFO, "model name") or platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    found = sorted(_NVIDIA.glob("*/information")) if _NVIDIA.is_dir() else []
    names = [name for path in found if (name := _field(path, "Model"))]
    if not names and (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return tuple(names)


def _field(path: Path, name: str) -> str:
    """The first value of ``name`` in a file of ``name : value`` lines, as /proc has them."""
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return " ".join(value.split())
    except OSError:
        pass
    return ""


def versions(libraries: Iterable[str] = _LIBRARIES) -> dict[str, str]:
    """Python, platform, cotdistill and the libraries that are installed; nothing is imported for it."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cotdistill": __version__}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The commit of the checkout this code runs from, ``-dirty`` where files differ; None outside a checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An installed copy inside somebody else's repository must not report that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True, timeout=5)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
