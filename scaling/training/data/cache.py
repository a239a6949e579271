"""The cache folder: one folder per prepared data set, complete or not there at all.

A data set is built in a temporary folder beside its place and renamed into it, so that several
processes, also on a shared file system, can prepare the same data: the first to finish wins and
the others use what it made.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.study.errors import DataError

MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a disk that takes no more
STALE_SECONDS = 86_400.0  # a temporary folder this old was left by a process that was killed


def cache_folder(setting: str | None) -> Path:
    """Return where shards are kept: the setting, else $SCALING_CACHE, else the user's cache."""
    chosen = setting or os.environ.get("SCALING_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "scaling-lab"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a data set's manifest; None if the data set is not there or lacks a file.

    Raises:
        DataError: the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        complete = all((folder / name).is_file() for name in manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged ({error}). Delete the folder {folder}; it is rebuilt by the next run."
        ) from error
    return manifest if complete else None


def build_once(folder: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest of a data set, building it first if it is not there.

    Args:
        folder: the data set's place.
        build: writes all files into the folder it is given and returns the manifest.

    Raises:
        DataError: the cache cannot be written.
    """
    if (manifest := read_manifest(folder)) is not None:
        return manifest
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"{folder.parent}: cannot write token shards here ({error.strerror}). Set data.cache "
            "or $SCALING_CACHE to a writable folder."
        ) from error
    try:
        manifest = build(temporary)
        files = sorted(path.name for path in temporary.iterdir())
        (temporary / MANIFEST).write_text(
            json.dumps({**manifest, "files": files}, indent=1), encoding="utf-8"
        )
        return _install(temporary, folder)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"{temporary}: cannot write ({error.strerror}). Free some space, or set data.cache to "
            "another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """Remove what killed builds of this data set left behind, long after."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        with contextlib.suppress(FileNotFoundError):  # another process may just have finished
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _install(temporary: Path, folder: Path) -> dict[str, Any]:
    """Rename the built folder into its place, or use what another process has put there."""
    for _ in range(10):
        try:
            temporary.chmod(0o755)  # mkdtemp makes folders for the user alone
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            if (winner := read_manifest(folder)) is not None:
                return winner
            _remove_incomplete(folder)
        else:
            break
    manifest = read_manifest(folder)
    if manifest is None:
        raise DataError(
            f"{folder}: another process keeps changing this data set. Delete the folder and run "
            "again."
        )
    return manifest


def _remove_incomplete(folder: Path) -> None:
    """Take away a data set that lacks a file; renamed first, so that nobody sees it half gone."""
    aside = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=folder.parent))
    try:
        folder.rename(aside / folder.name)
    except FileNotFoundError:
        pass  # another process was faster
    finally:
        shutil.rmtree(aside, ignore_errors=True)
