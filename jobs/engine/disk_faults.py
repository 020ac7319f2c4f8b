"""Tell disk errors (full, read-only, ...) from program errors, and say what to do.

A task's exception reaches the driver as text, wrapped in an exception of the engine. So the error
number is parsed from the text as Python, Java and Rust print it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

_ADVICE = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EACCES: "give this user the right to read and write there",
    errno.EPERM: "give this user the right to read and write there",
    errno.EIO: "check the disk, its last write failed",
}
_IN_TEXT = re.compile(
    r"\[Errno (?P<number>\d+)\](?:[^'\n]*'(?P<file>[^'\n]+)')?|\(os error (?P<rust>\d+)\)"
    r"|(?P<java>No space left on device)"
)
_SHORT_WRITE = re.compile(r"OSError: \d+ requested and \d+ written")  # NumPy's, without a number


def explain(error: BaseException, root: Path | None) -> str | None:
    """A message for an error of a disk, or None if `error` is about something else.

    It names the file (or `root`), the disk by its mount point, and the bytes free there.
    """
    found = _find(error)
    if found is None:
        return None
    number, file = found
    place = Path(file) if file else root or Path(tempfile.gettempdir())
    disk, free = _disk_of(place)
    said = f"{place}: {os.strerror(number)}; the disk at {disk} has {free:,} bytes free"
    temporary = _disk_of(Path(tempfile.gettempdir()))
    if file is None and temporary[0] != disk:  # engines spill to temporary folders
        said += f", that of temporary files at {temporary[0]} {temporary[1]:,}"
    return f"{said}; {_ADVICE[number]}, then run the same command again; committed data is intact"


def _find(error: BaseException) -> tuple[int, str | None] | None:
    """The error number, and the file if one is named; the innermost cause is printed last."""
    if isinstance(error, OSError):
        if error.errno not in _ADVICE:
            return None
        return error.errno, str(error.filename) if error.filename else None
    text = str(error)
    for match in reversed(list(_IN_TEXT.finditer(text))):
        number = int(match["number"] or match["rust"] or errno.ENOSPC)
        if number in _ADVICE:
            return number, match["file"]
    return (errno.ENOSPC, None) if _SHORT_WRITE.search(text) else None


def _disk_of(place: Path) -> tuple[Path, int]:
    """Mount point and free bytes of the disk of `place`, which need not exist."""
    folder = place.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    while not folder.is_mount() and folder != folder.parent:
        folder = folder.parent
    return folder, free
