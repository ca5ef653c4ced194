"""Asking: which sample of which question a model is asked for, until when, and where a teacher's traces lie."""
