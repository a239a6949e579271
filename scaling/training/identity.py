"""Which process holds a run: its number, on which machine, since which start of it, in which Slurm job.

A process number means something only on the machine that gave it, until that is started again, and only
to processes of the same container. Hosts may share a name, containers often do.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from pathlib import Path

CLOCK_SECONDS = 30.0  # s for which a reading of a file system's clock is carried on

_clocks: dict[
    Path, tuple[float, float]
] = {}  # by folder: the file system's time, and our steady one


def my_identity() -> dict:
    """Return what others need to know to tell whether this process is alive."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),  # the launcher, where a worker trains
        "host": socket.gethostname(),
        "boot": _boot(),
        "space": _process_space(),
        "started": _start_ticks(os.getpid()),
        **_slurm_life(),
    }


def is_same_host(holder: dict) -> bool:
    """Whether a holder's host has our name."""
    return holder["host"] == socket.gethostname()


def is_here(holder: dict) -> bool:
    """Whether a holder's process number means something here."""
    return (
        is_same_host(holder)
        and holder.get("boot") in (None, _boot())
        and holder.get("space") in (None, _process_space())
    )


def is_running(holder: dict) -> bool:
    """Whether a process of this machine is there, and is not another one with its number."""
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    return _start_ticks(holder["pid"]) == holder["started"]


def is_past_life(holder: dict) -> bool:
    """Whether Slurm has ended the holder, since it has started the same job again, as this process."""
    mine = _slurm_life()
    return bool(mine) and holder.get("job") == mine["job"] and holder.get("life", 0) < mine["life"]


def seconds_since_start() -> float | None:
    """Return how long this machine has been up; null where that is not known."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return None if clock is None else time.clock_gettime(clock)


def file_time(folder: Path) -> float:
    """Return what time it is to a folder's file system [s]; by our clock where nothing can be written."""
    read = _clocks.get(folder)
    if read is None or time.monotonic() - read[1] > CLOCK_SECONDS:
        probe = folder / f".clock.{uuid.uuid4().hex}"
        try:
            probe.touch()
            os.utime(probe)  # a server's own time, as a heartbeat's
            read = probe.stat().st_mtime, time.monotonic()
            probe.unlink()
        except OSError:
            return time.time()
        _clocks[folder] = read
    return read[0] + time.monotonic() - read[1]


def _slurm_life() -> dict:
    """Return the Slurm job that this process belongs to, and how often it was started again."""
    job = os.environ.get("SLURM_JOB_ID")
    return {"job": job, "life": int(os.environ.get("SLURM_RESTART_COUNT") or 0)} if job else {}


def _boot() -> str | None:
    """Return what names this start of the machine; null where there is no /proc."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _process_space() -> str | None:
    """Return what names the set of processes that this one sees; containers have their own."""
    with contextlib.suppress(OSError, AttributeError):
        return os.readlink("/proc/self/ns/pid")
    return None


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; null where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
