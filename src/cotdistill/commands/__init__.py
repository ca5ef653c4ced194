"""The commands; those that go together share a file. They parse flags, call the stages and say what came of it;
nothing else.

Flags are written with underscores, as in ``--num_epochs``; the command line takes dashes as well.
"""
