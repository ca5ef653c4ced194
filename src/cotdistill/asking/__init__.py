"""Asking: which sample of which question a model is asked for, until when, and into which file its answers go."""
