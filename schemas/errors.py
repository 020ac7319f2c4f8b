"""The one exception that a person is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can put right: one sentence that names the file, the setting, the value.

    Commands print it without a traceback and exit with code 2.
    """
