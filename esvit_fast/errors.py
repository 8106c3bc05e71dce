"""The error that tells a user what to mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something that a user can mend; one line, which names the argument, its value and the remedy.

    The command line prints this line and ends with exit code 2. Everything else that it meets is a bug, of which it
    keeps the traceback.
    """
