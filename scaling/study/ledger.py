"""What every run of a folder says of itself, at a glance; read anew only where it has changed.

A look costs one stat per run. What was read is kept in memory, and on disk in an index that may be
deleted at any time: `run.json` is the truth, and the index is only believed of files that are
provably the ones it was made from.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scaling.study.errors import RecordError
from scaling.study.record import RunRecord, read_record, write_atomic

# A file that was changed so shortly before it was read could be changed again within the same tick
# of the file system's clock, size and time alike. The coarsest clock in use ticks every 2 s (FAT);
# NFS and ext3 tick every second.
TICK = 3_000_000_000  # ns


class Glance(NamedTuple):
    """What a table of many runs shows of one: fields of its record, or why it cannot be read."""

    status: str  # of the record, or damaged
    reason: str | None = None
    role: str = "fit"
    params: int | None = None  # in the convention the size was asked for in
    tokens: int | None = None
    tokens_target: float | None = None
    steps: int | None = None
    steps_planned: int | None = None
    val_loss: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    stacked: int | None = None
    updated_at: str | None = None
    retry_of: str | None = None


class _Seen(NamedTuple):
    stamp: tuple[int, int, int, int]  # mtime [ns], ctime [ns], size [bytes], inode
    clock: int  # ns; the file system's time just before the record was read
    glance: Glance

    def settled(self, now: int) -> bool:
        """Whether a later change would show in the stamp: the file was at rest when it was read."""
        return max(self.stamp[:2]) + TICK < self.clock <= now


class Ledger:
    """The records of one folder of runs.

    Args:
        folder: holds a folder per run.
        index: whether to use and keep the index on disk, `.status/index.json` in that folder.
    """

    def __init__(self, folder: Path, *, index: bool = True) -> None:
        self.folder = folder
        self.path = folder / ".status" / "index.json" if index else None
        self.read = 0  # records read in the last look, the others being as they were
        self._seen: dict[str, _Seen] = self._load()
        self._saved = {name for name, seen in self._seen.items()}

    def look(self) -> dict[str, Glance]:
        """Return a glance at every run that has a record, by folder name, in the order of names."""
        now = self._clock()
        seen: dict[str, _Seen] = {}
        self.read = 0
        for name, stamp in _stamps(self.folder):
            before = self._seen.get(name)
            if before is None or before.stamp != stamp or not before.settled(now):
                self.read += 1
                before = _see(self.folder / name, stamp, now)
            seen[name] = before
        self._seen = dict(sorted(seen.items()))
        return {name: s.glance for name, s in self._seen.items()}

    def stamps(self) -> dict[str, tuple[int, int, int, int]]:
        """Return what tells each record of the last look from every other version of it."""
        return {name: seen.stamp for name, seen in self._seen.items()}

    def save(self) -> None:
        """Keep what is at rest on disk; nothing happens where that cannot be written."""
        rows = {n: s for n, s in self._seen.items() if s.settled(s.clock)}
        if self.path is None or (not self.read and set(rows) <= self._saved):
            return
        text = json.dumps({n: [*s.stamp, s.clock, *s.glance] for n, s in rows.items()})
        with contextlib.suppress(OSError):  # somebody else's folder, or a full disk
            write_atomic(self.path, f"{_version()} {zlib.crc32(text.encode())}\n{text}\n")
            self._saved = set(rows)

    def _load(self) -> dict[str, _Seen]:
        """Read the index; one of another version, cut or altered, is none."""
        try:
            head, text = self.path.read_text(encoding="utf-8").rstrip("\n").split("\n", 1)  # type: ignore[union-attr]
            if head != f"{_version()} {zlib.crc32(text.encode())}":
                return {}
            rows = json.loads(text)
        except (AttributeError, OSError, ValueError):
            return {}
        return {n: _Seen(tuple(r[:4]), r[4], Glance(*r[5:])) for n, r in rows.items()}

    def _clock(self) -> int:
        """Return the file system's own time [ns], which need not be ours; 0 where it cannot be asked."""
        if self.path is None:
            return 0
        try:
            self.path.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent) as probe:
                probe.write(b".")
                probe.flush()
                return os.fstat(probe.fileno()).st_mtime_ns
        except OSError:
            return 0


def _version() -> int:
    """A number that changes with what the index holds and with the schema of records."""
    return zlib.crc32(repr((1, Glance._fields, list(RunRecord.__dataclass_fields__))).encode())


def _stamps(folder: Path) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yield the runs of a folder with the stamps of their records; one stat for each."""
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    root = os.fspath(folder)
    for name in names:
        try:
            s = os.stat(f"{root}/{name}/run.json")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # a folder that may not be entered: said when its record is read
            yield name, (0, 0, 0, 0)
        else:
            yield name, (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino)


def _see(folder: Path, stamp: tuple[int, int, int, int], clock: int) -> _Seen:
    """Read a record; one that rests on more than its `run.json` is read again at every look."""
    try:
        return _Seen(stamp, clock, _glance(read_record(folder, copy=False)))
    except RecordError as error:
        with contextlib.suppress(RecordError):
            return _Seen(stamp, 0, _glance(read_record(folder)))
        return _Seen(stamp, 0, Glance("damaged", str(error)))


def _glance(record: RunRecord) -> Glance:
    by_total = record.params_convention == "total"
    params = record.params_total if by_total else record.params_non_embedding
    same = {name: getattr(record, name) for name in Glance._fields if name != "params"}
    return Glance(params=params, **same)
