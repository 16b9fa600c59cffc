"""Errors that a person reads: one sentence, what is wrong, where, and the mend."""


class UserError(ValueError):
    """The words were wrong: a name, an option, a file, a problem (the command line exits with 2)."""


class WorkError(RuntimeError):
    """The words were right and the work failed: a full disk, a lost worker, no data (the command line exits with 1)."""
