"""One process per run: a claim file that a killed process cannot leave standing."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path

from scaling.study.errors import TrainError

# A claim from another machine whose heartbeat is older than this is dead. A run writes one at
# least every few seconds; ten minutes leave room for a stalled network file system.
DEAD_AFTER = 600.0  # s
BEAT_EVERY = 5.0  # s
HALF_WRITTEN = 2.0  # s; an empty claim that is older was left by a kill


class Claim:
    """Exclusive right to train into a folder; use it in a `with` block.

    The file names process, host and a heartbeat. A claim of a process that is gone (on this host)
    or silent (on another) is taken over.

    Raises:
        TrainError: another live process holds the claim.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "claim.json"
        self.token = uuid.uuid4().hex
        self.taken_over: str | None = None
        self._beaten = 0.0

    def __enter__(self) -> Claim:
        for _ in range(100):
            if self._create():
                return self
            holder = _read(self.path)
            if holder is None or (not holder["token"] and _age(holder) < HALF_WRITTEN):
                time.sleep(0.05)  # released in between, or being written just now
            elif _alive(holder):
                raise TrainError(
                    f"{self.path.parent}: process {holder['pid']} on {holder['host']} is training this run "
                    f"(last heard of {_age(holder):.0f} s ago). Let it finish, or stop it and start this again."
                )
            else:
                self._remove(holder)
        raise TrainError(
            f"{self.path}: cannot be claimed. If no process trains this run, delete the file."
        )

    def __exit__(self, *_: object) -> None:
        holder = _read(self.path)
        if holder is not None and holder["token"] == self.token:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Renew the heartbeat, if it is time."""
        if time.monotonic() - self._beaten < BEAT_EVERY:
            return
        self._beaten = time.monotonic()
        try:
            os.utime(self.path)
        except FileNotFoundError:  # the folder was deleted under the run
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(_identity() | {"token": self.token}))
        return True

    def _remove(self, dead: dict) -> None:
        """Move a dead claim aside; if it was another's fresh one after all, put it back."""
        aside = self.path.with_name(f".claim.{self.token}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        moved = _read(aside)
        if moved is not None and moved["token"] != dead["token"]:
            os.rename(aside, self.path)
            return
        aside.unlink()
        self.taken_over = f"took over from process {dead['pid']} on {dead['host']}, which is gone"


def read_claim(folder: Path) -> dict | None:
    """Return pid, parent and token of the process on this host that holds a run; null if none does."""
    holder = _read(folder / "claim.json")
    return holder if holder and holder["host"] == socket.gethostname() and _alive(holder) else None


def _identity() -> dict:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),  # the launcher, where a worker trains
        "host": socket.gethostname(),
        "started": _start_ticks(os.getpid()),
    }


def _read(path: Path) -> dict | None:
    """Return who holds a claim; all unknown if a kill came before it was written."""
    try:
        text, heartbeat = path.read_text(), path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        return json.loads(text) | {"heartbeat": heartbeat}
    except json.JSONDecodeError:
        return {"pid": None, "host": None, "started": None, "token": "", "heartbeat": heartbeat}


def _age(holder: dict) -> float:
    return time.time() - holder["heartbeat"]


def _alive(holder: dict) -> bool:
    if holder["pid"] is None:
        return False
    if holder["host"] != socket.gethostname():
        return _age(holder) < DEAD_AFTER
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    return _start_ticks(holder["pid"]) == holder["started"]  # a reused number is another process


def _start_ticks(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; null where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
