"""Stages: each arrow of the way, on files, resumable; the scripts and the pipeline call the same ones.

    questions --generate--> traces --verify--> verdicts --train--> adapter --evaluate--> predictions

A stage claims its settings in a manifest before it works and is marked done after its files are complete: the
same settings go on, other settings are refused. A finished stage is not done again, and loads no model.
"""
