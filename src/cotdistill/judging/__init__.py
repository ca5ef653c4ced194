"""Judging: the verdicts on a whole file of traces, and which of the sound ones teach."""
