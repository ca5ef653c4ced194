"""``cotdistill`` and ``python -m cotdistill``: little to load before a Ctrl-C is heard."""

from cotdistill.interrupt import while_loading


def main() -> None:
    """Entry point of ``cotdistill``."""
    with while_loading():
        from cotdistill.cli import main as program

        program()


if __name__ == "__main__":
    main()
