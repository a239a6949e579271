"""Whether records can be kept in a folder: room, permission, and what claims and atomic writes need."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from scaling.cli.finding import Finding
from scaling.study.units import format_bytes

LITTLE, NONE = 2 * 2**30, 100 * 2**20  # bytes free: less is doubtful, less does not even hold a toy
FEW_FILES = 5000  # a sweep of a thousand runs has about so many
SLOW = 0.1  # s for a small file that is safely on disk; a local disk takes 1 to 20 ms
SKEW = 30.0  # s between the clocks of this machine and of the file system
# File systems by the name that Linux gives them.
NETWORK = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb",
    "ceph",
    "9p",
    "fuse.sshfs",
    "afs",
    "panfs",
)
MEMORY = ("tmpfs", "ramfs")


def check_folder(what: str, folder: Path, *, cure: str) -> Finding:
    """Try in a folder, or where it would be made, what training does there.

    Args:
        what: the folder's purpose; cure: how another one is chosen.
    """
    place = nearest(folder)
    kind = file_system(place)
    try:
        troubles = try_place(place)
        free = shutil.disk_usage(place).free
        files = os.statvfs(place).f_favail if hasattr(os, "statvfs") else FEW_FILES
    except OSError as error:
        return Finding(
            what, f"{folder}: {error.strerror or error}", "fail", f"not writable; {cure}"
        )
    found = f"{folder}{f' ({kind})' if kind else ''}, {format_bytes(free)} free"
    if free < NONE:
        return Finding(what, found, "fail", f"free some room, or {cure}")
    if free < LITTLE:
        troubles.append("little room: `scaling clean` shows what can go")
    if 0 < files < FEW_FILES:
        troubles.append(f"only {files:,} more files can be made")
    if kind.startswith(MEMORY):
        troubles.append("this is memory, and empty after a restart")
    verdict = "fail" if any(t.startswith("no ") for t in troubles) else "warn" if troubles else "ok"
    return Finding(what, found, verdict, f"{'; '.join(troubles)}; {cure}" if troubles else "")


def nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    path = folder.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.is_dir())


def try_place(place: Path) -> list[str]:
    """Write, rename, link and time a few small files in a folder of their own; return what is wrong.

    Raises:
        OSError: nothing can be written.
    """
    room = Path(tempfile.mkdtemp(prefix=".scaling-doctor-", dir=place))
    try:
        seconds = min(_write(room / str(i)) for i in range(3))
        skew = abs((room / "0").stat().st_mtime - time.time())
        troubles = [] if _renames(room) else ["no atomic rename: records could be cut off"]
        troubles += (
            [] if _claims(room) else ["no exclusive files: two processes could train one run"]
        )
        if seconds > SLOW:
            troubles.append(f"slow: {1000 * seconds:.0f} ms for a small file")
        if skew > SKEW:
            troubles.append(f"its clock is {skew:.0f} s from this machine's")
        return troubles
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _write(path: Path) -> float:
    start = time.perf_counter()
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - start


def _renames(room: Path) -> bool:
    (room / "new").write_text("new")
    os.replace(room / "new", room / "0")
    return (room / "0").read_text() == "new" and not (room / "new").exists()


def _claims(room: Path) -> bool:
    """Whether a file that must not exist can be made by one process only, by a link or by its creation."""
    with contextlib.suppress(OSError):
        os.link(room / "1", room / "claim")
        return _refuses(lambda: os.link(room / "2", room / "claim"))
    os.close(os.open(room / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    return _refuses(lambda: os.open(room / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _refuses(act: object) -> bool:
    try:
        act()  # type: ignore[operator]
    except FileExistsError:
        return True
    return False


def file_system(place: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the kind of file system that a folder is on, by Linux's name; empty elsewhere."""
    try:
        rows = [line.split(" ")[1:3] for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    path = os.path.realpath(place)
    on = [(r[0].replace("\\040", " "), r[1]) for r in rows if len(r) == 2]
    over = [
        (len(m), i, kind)
        for i, (m, kind) in enumerate(on)
        if m == "/" or f"{path}/".startswith(f"{m}/")
    ]
    return max(over)[2] if over else ""
