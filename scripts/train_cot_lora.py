"""The user's command; the same as ``cotdistill train``. Runs from a clone, installed or not."""

import helpers

helpers.run("train")
