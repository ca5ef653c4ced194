"""Reporting: the numbers of a report, and how they are shown. What is computed here takes values and returns values."""
