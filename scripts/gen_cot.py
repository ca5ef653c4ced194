"""The user's command; the same as ``cotdistill generate``. Runs from a clone, installed or not."""

import helpers

helpers.run("generate")
