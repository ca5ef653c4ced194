"""Coverage-guided fuzzing of the targets that ``test_fuzz`` tries with fixed examples; needs ``pip install atheris``.

    python tests/fuzz_atheris.py [--seconds 60] [TARGET ...]

Every target runs in a process of its own for that long, from its seeds on. What breaks it is written to a file that
is named at the end, and the exit code is 1; ``python tests/fuzz_atheris.py --try FILE TARGET`` runs one such file.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path


def fuzz(name: str, arguments: list[str]) -> None:
    """Run one target until libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["cotdistill"]):
        from cotdistill.errors import CotdistillError
        from fuzz_targets import TARGETS

    def run(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except CotdistillError:
            return

    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)  # fmt: skip
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--try", dest="file", type=Path)
    options, arguments = parser.parse_known_args()
    if arguments:
        fuzz(options.targets[0], [*arguments, *options.targets[1:]])
    from fuzz_targets import SEEDS, TARGETS

    if options.file:
        TARGETS[options.targets[0]](options.file.read_bytes())
        return
    broken: list[str] = []
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as corpus:
            for number, seed in enumerate(SEEDS[name]):
                (Path(corpus) / str(number)).write_bytes(seed)
            limits = [f"-max_total_time={options.seconds}", "-timeout=20", f"-artifact_prefix=fuzz-{name}-"]
            command = [sys.executable, __file__, name, *limits, corpus]
            if subprocess.run(command, check=False).returncode:
                broken.append(name)
    if broken:
        raise SystemExit(f"broken: {', '.join(broken)}; the inputs are in fuzz-TARGET-*")


if __name__ == "__main__":
    main()
