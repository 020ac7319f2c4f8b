"""The corpus directory (`--root`): marked as ours before anything else is written to it.

Stages delete what killed runs left in a root. So a root is a folder with the marker
`gristmill.json`, written when the folder was new or held nothing with the name of a dataset. The
datasets are folders directly in it; neither they nor their files may be symbolic links.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas import manifest
from schemas.datasets import DATASETS
from schemas.errors import UserError
from schemas.manifest import ForgottenExtra
from schemas.names import plain_component

MARKER = "gristmill.json"
FORMAT = 1
# Folders of one kind each; those of shards are found by their manifests.
FIXED = tuple(name for name in (*DATASETS, "judged") if name != "shards")
_WORKING = (".work", ".progress")
# The engines take these for patterns of paths, or refuse them.
_NOT_IN_PATHS = re.compile(r"[\[\]{}?*\\\x00-\x1f\x7f\ud800-\udfff]")


def shards_folder(root: Path, name: str) -> Path:
    """The folder of `--shards NAME` in a root; raises `UserError` for an invalid name."""
    try:
        plain_component(name)
    except ValueError as error:
        raise UserError(f"--shards {error}") from None
    if name in (*FIXED, *_WORKING, MARKER) or name.startswith("."):
        raise UserError(f"--shards {name}: is not a name for shards; use another, e.g. shards-2")
    return root / name


def check_path(flag: str, root: Path) -> None:
    """Raise `UserError` if engines would not read the path of a root literally."""
    found = _NOT_IN_PATHS.search(str(root.absolute()))
    if found:
        raise UserError(
            f"{flag} {str(root)!r}: its path has {found[0]!r}, which engines read as a pattern; "
            "use a path without [ ] { } ? * \\ and control characters"
        )


@contextmanager
def locked(root: Path, shards: str | None = None) -> Iterator[None]:
    """Create the corpus directory, or check that `root` is one, and lock it for this run.

    `shards` is the name of the shards that will be written. Raises `UserError` if the folder is not
    a corpus directory, cannot be written to, or is in use by another run.
    """
    check_path("--root", root)
    if shards is not None:
        shards_folder(root, shards)
    try:
        root.mkdir(parents=True, exist_ok=True)
        refuse_links(root)
        _mark(root, shards)
        lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UserError(f"--root {root}: cannot be written to: {error.strerror}") from None
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--root {root}: another run is using it") from None
        for name in _WORKING:  # of a killed run
            shutil.rmtree(root / name, ignore_errors=True)
        for path in root.glob(f".{MARKER}.*.tmp"):
            path.unlink()
        try:
            yield
        finally:
            for name in _WORKING:
                with contextlib.suppress(OSError):  # it holds files, or is not there
                    (root / name).rmdir()


def _mark(root: Path, shards: str | None) -> None:
    """Write the marker if it is missing; raises `UserError` if the folder may hold other files."""
    if (root / MARKER).is_file():
        return
    for name in (*FIXED, *({"shards", "conversations", shards} - {None}), *_WORKING):
        folder = root / str(name)
        if (folder.exists() or folder.is_symlink()) and not _is_ours(folder):
            raise UserError(
                f"--root {root}: is not a corpus directory (it has no {MARKER}) and holds "
                f"'{name}', where a dataset would go; use a new or an empty folder"
            )
    text = json.dumps({"format": FORMAT, "kind": "corpus directory"}, indent=1)
    with manifest.atomic_path(root / MARKER) as path:
        path.write_text(text + "\n", encoding="utf-8")


def _is_ours(folder: Path) -> bool:
    """Whether the folder holds a dataset's manifest (roots of version 0.1 have no marker)."""
    if folder.name in _WORKING:
        return any(_is_ours(folder.parent / name) for name in FIXED)
    if folder.is_symlink() or not folder.is_dir():
        return False
    listed = manifest.read(folder)
    return listed is not None and listed.dataset in (folder.name, "shards")


def refuse_links(root: Path) -> None:
    """Raise `UserError` if a dataset of the root, or a file in one, is a symbolic link."""
    for entry in list(os.scandir(root)):
        named = entry.name in (*FIXED, *_WORKING, MARKER, ".lock")
        if entry.is_symlink() and (named or _holds_manifest(Path(entry.path))):
            _refuse_link(Path(entry.path))
        if entry.is_dir(follow_symlinks=False) and (named or _holds_manifest(Path(entry.path))):
            for inner in list(os.scandir(entry.path)):
                if inner.is_symlink():
                    _refuse_link(Path(inner.path))


def _holds_manifest(folder: Path) -> bool:
    return (folder / manifest.MANIFEST_FILE).exists()


def _refuse_link(path: Path) -> None:
    raise UserError(
        f"{path}: is a symbolic link; a root holds its datasets and their files themselves: "
        "move them there, or name the root that the link leads to"
    )


def refuse_unfinished(root: Path) -> None:
    """Raise `UserError` if a takedown did not finish: the datasets are inconsistent."""
    listed = manifest.read(root / "forgotten")
    if listed and manifest.extra_of(listed, ForgottenExtra).unfinished:
        raise UserError(
            f"--root {root}: a takedown did not finish there; "
            f"run gristmill forget --root {root} to resume it"
        )
