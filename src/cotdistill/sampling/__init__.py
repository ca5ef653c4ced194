"""Sampling: which sample of which question a teacher is asked for, until when, and where its traces lie."""
