"""``python -m cotdistill``: the same command where its script is not on the path."""

from cotdistill.cli import main

if __name__ == "__main__":
    main()
