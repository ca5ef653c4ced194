"""What can go wrong, in one sentence a user can act on.

Every error that reaches the command line is one of these; each says what is wrong, where, and what
to do next. A bad *row* is never an exception: it gets a status and is counted.
"""


class CotdistillError(Exception):
    """Something the user can fix. Shown as one sentence, without a traceback."""

    exit_code = 1


class UsageError(CotdistillError):
    """Flags or arguments that contradict each other."""

    exit_code = 2


class SetupError(CotdistillError):
    """A model, package, directory or permission is not as the work needs it."""


class ServerAway(CotdistillError):
    """A server that the work needs does not answer now; when it does, the same command goes on."""


class DataError(CotdistillError):
    """A file of the user's or of ours cannot be read; names the file and, where there is one, the line."""


class ResumeError(CotdistillError):
    """The files on disk were made with other settings, or another process is writing them."""


class TrainingError(CotdistillError):
    """Training could not go on honestly: nothing to learn from, a loss that is NaN or exactly zero."""


class NotWorthIt(CotdistillError):
    """The plan of a recipe found that its run cannot help; the exit code is that of a gate that says no."""

    exit_code = 3
