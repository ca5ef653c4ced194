"""Reporting: the scores of a run, the table and the page, and the files of a run that they are made from."""
