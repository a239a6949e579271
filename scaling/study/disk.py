"""How much room a folder takes, and what lies below it; links are never followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def disk_usage(folder: Path) -> int:
    """Return the bytes of all files below a folder (or of a file); what vanishes meanwhile counts 0."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(entry_size(entry) for entry in walk_files(folder))


def walk_files(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yield every file below a folder, hidden ones too; links are left out."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except (FileNotFoundError, NotADirectoryError):  # removed while we look
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry


def entry_size(entry: os.DirEntry[str]) -> int:
    """Return the bytes of a file that `walk_files` found; 0 if it is gone."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def newest_change(folder: Path, *, reads: bool = False) -> float:
    """Return when anything below a folder (or a file) was last written, as a time of `time.time()`.

    Args:
        reads: reading counts too, as far as the file system notes it (usually once a day).
    """
    found = [folder.lstat()]
    for entry in walk_files(folder):
        try:
            found.append(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue
    return max(max(s.st_mtime, s.st_atime if reads else 0.0) for s in found)
