"""The one exception that a person is meant to read."""

from __future__ import annotations

from schemas.printing import printable


class UserError(ValueError):
    """Something the user can put right: one sentence that names the file, the setting, the value.

    Commands print it without a traceback and exit with code 2. It may quote a file that somebody
    else wrote, so its text never controls a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__())
