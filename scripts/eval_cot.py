"""The user's command; the same as ``cotdistill evaluate``. Runs from a clone, installed or not."""

import helpers

helpers.run("evaluate")
