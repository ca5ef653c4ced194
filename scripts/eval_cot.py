"""The user's command; the same as ``cotdistill evaluate``. Runs from a clone, installed or not."""

import helpers

if __name__ == "__main__":  # a process that vLLM starts reads this file again
    helpers.run("evaluate")
