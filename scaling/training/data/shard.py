"""Prepared files while they are read: shards that are watched, arrays that hold numbers only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from scaling.study.errors import DataError


class OpenShard:
    """An open shard, watched: to read a mapped file past its new end kills a process (SIGBUS).

    A file that is deleted stays whole for whoever has it open; one that is cut does not. Asking for
    its size takes a microsecond, so that it is asked before every batch.

    Args:
        path: the shard's; digest: sha256 of its payload.
    """

    def __init__(self, path: Path, digest: bytes) -> None:
        self.path, self.digest = path, digest
        self._file = path.open("rb")
        self._seen = self._state()

    def check(self, tokens: np.ndarray) -> None:
        """Compare size and time with what they were; another time alone has the tokens checked again.

        Raises:
            DataError: the file was cut, changed, or can no longer be read.
        """
        try:
            now = self._state()
            if now == self._seen:
                return
            whole = now[0] == self._seen[0] and hashlib.sha256(tokens.data).digest() == self.digest
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read any more ({error.strerror}). Bring it back, then start again: the "
                "run goes on where it stopped."
            ) from None
        if not whole:
            raise DataError(
                f"{self.path}: was changed while it was read (its size went from {self._seen[0]} to {now[0]} "
                f"bytes). {cure(self.path)} The run goes on where it stopped."
            )
        self._seen = now

    def _state(self) -> tuple[int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns


def load_array(path: Path) -> np.ndarray:
    """Read an array of numbers from a prepared folder.

    Raises:
        DataError: the file is damaged, or holds objects, which are never loaded.
    """
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged ({error}). {cure(path)}") from None
    return array


def cure(path: Path) -> str:
    """Return what to do about a damaged file of the cache."""
    folder = path if path.is_dir() or not path.suffix else path.parent
    return f"Delete the folder {folder}; it is rebuilt by the next run."
