"""The exception for user errors."""

from __future__ import annotations

from schemas.printing import printable


class UserError(ValueError):
    """Invalid input: a message that names the file, the setting, the value, and what to do.

    Commands print it without a traceback and exit with code 2. It may quote untrusted files, so its
    text is made printable.
    """

    def __str__(self) -> str:
        return printable(super().__str__())
