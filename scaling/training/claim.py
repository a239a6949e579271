"""One process per run: a claim file that a killed process cannot leave standing.

Nothing here trusts two clocks to agree or one clock never to jump: the age of a heartbeat is taken
by the clock of the file system that stamped it, and a claim is old only if nobody renews it while we
watch. Creating a file that must not exist and renaming one are atomic also on NFS (version 3 and up).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from pathlib import Path

from scaling.study.errors import BusyError, TrainError
from scaling.training.identity import (
    file_time,
    is_here,
    is_past_life,
    is_running,
    is_same_host,
    my_identity,
    seconds_since_start,
)

# `claim.takeover`: a claim from elsewhere whose heartbeat is older than this is dead. A thread writes
# one every few seconds; ten minutes leave room for a stalled network file system.
TAKEOVER = 600.0  # s
BEAT_EVERY = 5.0  # s; study.config allows no takeover before three of them
WATCH = 2.5 * BEAT_EVERY  # s in which a live process renews its claim, whatever the clocks say
HALF_WRITTEN = 2.0  # s; a claim that is empty for so long was left by a kill


class Claim:
    """Exclusive right to train into a folder; use it in a `with` block.

    The file names process, host and a heartbeat. A claim of a process that is gone (on this host)
    or silent (on another) is taken over.

    Args:
        folder: the run's.
        takeover: s after which a silent process elsewhere is taken for dead.

    Raises:
        BusyError: another live process holds the claim.
        TrainError: the file can neither be read nor replaced.
    """

    def __init__(self, folder: Path, *, takeover: float = TAKEOVER) -> None:
        self.path, self.takeover = folder / "claim.json", takeover
        self.token = uuid.uuid4().hex
        self.taken_over: str | None = None
        self.lost: str | None = None  # who has taken it from us
        self._beaten = 0.0
        self._done = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Claim:
        empty_since: float | None = None
        for _ in range(100):
            if self._create():
                self._beaten = time.monotonic()
                # a step, a compilation or an evaluation may take longer than others wait
                threading.Thread(target=self._beat_on, daemon=True).start()
                return self
            holder = _read(self.path)
            if holder is not None and not holder["token"]:  # being written just now, or by a kill
                empty_since = empty_since or time.monotonic()
            if holder is None or (
                not holder["token"]
                and empty_since is not None
                and time.monotonic() - empty_since < HALF_WRITTEN
            ):
                time.sleep(0.05)
            elif _alive(holder, self.path, self.takeover) or _is_renewed(self.path, holder):
                raise BusyError(
                    f"{self.path.parent}: process {holder['pid']} on {holder['host']} is training this run "
                    f"(last heard of {max(0, _age(holder, self.path)):.0f} s ago). Let it finish, or stop it and start this again."
                )
            else:
                self._remove(holder)
        raise TrainError(
            f"{self.path}: cannot be claimed. If no process trains this run, delete the file."
        )

    def __exit__(self, *_: object) -> None:
        self._done.set()
        holder = _read(self.path)
        if holder is not None and holder["token"] == self.token:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Renew the heartbeat, if it is time.

        Raises:
            TrainError: the run is another process's now, since this one was not heard of.
        """
        self._renew()
        if self.lost:
            raise TrainError(
                f"{self.path.parent}: {self.lost} has taken this run over, since this process was not heard of "
                "(suspended, or cut off from the file system). It goes on there; this process leaves it."
            )

    def _beat_on(self) -> None:
        while not self._done.wait(BEAT_EVERY):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            if time.monotonic() - self._beaten < 0.9 * BEAT_EVERY or self._done.is_set():
                return
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):  # a full or lost disk shows where the run writes
                self._touch()

    def _touch(self) -> None:
        holder = _read(self.path)
        if holder is None:  # deleted under the run
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create()
        elif holder["token"] == self.token:
            os.utime(self.path)
        elif holder["token"]:
            self.lost = f"process {holder['pid']} on {holder['host']}"

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as file:
                file.write(json.dumps(my_identity() | {"token": self.token}))
        except OSError:  # a full disk: an empty claim would keep others waiting
            self.path.unlink(missing_ok=True)
            raise
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
            _put_back(aside, self.path)
            return
        aside.unlink()
        self.taken_over = f"took over from process {dead['pid']} on {dead['host']}, which is gone"


def find_holder(folder: Path, *, takeover: float = TAKEOVER) -> str | None:
    """Return who trains a run, on whichever host; null if nobody does, or nobody was heard of in `takeover` s."""
    holder = find_claim(folder, takeover=takeover)
    return f"process {holder['pid']} on {holder['host']}" if holder else None


def find_claim(folder: Path, *, takeover: float = TAKEOVER) -> dict | None:
    """Return pid, host and Slurm job of who trains a run, on whichever host; null if nobody does."""
    path = folder / "claim.json"
    holder = _read(path)
    return holder if holder is not None and _alive(holder, path, takeover) else None


def read_claim(folder: Path) -> dict | None:
    """Return pid, parent and token of the process on this host that holds a run; null if none does."""
    path = folder / "claim.json"
    holder = _read(path)
    return holder if holder and is_here(holder) and _alive(holder, path, TAKEOVER) else None


def _put_back(aside: Path, path: Path) -> None:
    """Return a claim that was moved aside, unless somebody has made another meanwhile."""
    try:
        os.link(aside, path)  # unlike a rename, this overwrites nobody
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.rename(aside, path)
        return
    aside.unlink()


def _read(path: Path) -> dict | None:
    """Return who holds a claim; all unknown if a kill came before it was written."""
    try:
        text, heartbeat = path.read_text(errors="replace"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    unknown = {"pid": None, "host": None, "started": None, "token": "", "heartbeat": heartbeat}
    try:
        found = json.loads(text)
        # numbers below 1 are groups of processes to a signal
        number = isinstance(found["pid"], int) and 0 < found["pid"] < 2**31
        known = number and isinstance(found["host"], str) and isinstance(found["token"], str)
        return unknown | found if known else unknown
    except (ValueError, TypeError, KeyError):
        return unknown


def _age(holder: dict, path: Path) -> float:
    """Seconds since a heartbeat, by the clock that stamped it and not by ours."""
    return file_time(path.parent.parent) - holder["heartbeat"]


def _is_renewed(path: Path, holder: dict) -> bool:
    """Watch a claim of another host that seems old: our clock may have jumped, or not be theirs."""
    if holder["pid"] is None or is_here(holder) or is_past_life(holder):
        return False
    end = time.monotonic() + WATCH
    while time.monotonic() < end:
        now = _read(path)
        if (
            now is None
            or now["token"] != holder["token"]
            or now["heartbeat"] != holder["heartbeat"]
        ):
            return now is not None
        time.sleep(0.2)
    return False


def _alive(holder: dict, path: Path, takeover: float) -> bool:
    if holder["pid"] is None or is_past_life(holder):
        return False
    if is_here(holder):
        return is_running(holder)
    age = _age(holder, path)
    since = seconds_since_start()
    restarted = is_same_host(holder) and since is not None and age > max(WATCH, since)
    return age < takeover and not restarted
