"""One process per run: a claim file that a killed process cannot leave standing.

Nothing here trusts two clocks to agree or one clock never to jump: the age of a heartbeat is taken
by the clock of the file system that stamped it, and a claim is old only if nobody renews it while we
watch. Creating a file that must not exist and renaming one are atomic also on NFS (version 3 and up).
"""

from __future__ import annotations

import contextlib
import hashlib
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
        seen: dict[str, float] = {}  # half-written claims, and since when
        for _ in range(100):
            if self._put(self.path):
                return self._begin()
            first, holder, path = self._last_in_line()
            if holder is None or (
                not holder["token"]  # being written just now, or by a kill
                and time.monotonic() - seen.setdefault(holder["name"], time.monotonic())
                < HALF_WRITTEN
            ):
                time.sleep(0.05)
            elif _alive(holder, path, self.takeover) or _is_renewed(path, holder):
                raise BusyError(
                    f"{self.path.parent}: process {holder['pid']} on {holder['host']} is training this run "
                    f"(last heard of {max(0, _age(holder, path)):.0f} s ago). Let it finish, or stop it and start this again."
                )
            elif self._succeed(first, holder):
                return self._begin()
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
            self._put(self.path)
        elif holder["token"] == self.token:
            os.utime(self.path)
        elif holder["token"]:
            self.lost = f"process {holder['pid']} on {holder['host']}"

    def _begin(self) -> Claim:
        """Sweep away what contenders that were killed have left, and begin to renew the claim."""
        for path in self.path.parent.glob(".claim.*"):
            path.unlink(missing_ok=True)  # one that contends just now finds us when it tries again
        self._beaten = time.monotonic()
        # a step, a compilation or an evaluation may take longer than others wait
        threading.Thread(target=self._beat_on, daemon=True).start()
        return self

    def _put(self, path: Path, *, over: bool = False) -> bool:
        """Write this claim to a file at once, content and all; return whether that was possible.

        Args:
            path: where to.
            over: in place of what is there; else only where nothing is.
        """
        draft = self.path.with_name(f".claim.{self.token}")
        try:
            draft.write_text(json.dumps(my_identity() | {"token": self.token}))
            if over:
                os.replace(draft, path)
                return True
            return _link(draft, path)
        except FileNotFoundError:  # swept away by another, which has got it
            return False
        finally:
            draft.unlink(missing_ok=True)

    def _last_in_line(self) -> tuple[dict | None, dict | None, Path]:
        """Return who holds the file, who was the last to succeed it, and that one's file."""
        path = self.path
        first = holder = _read(path)
        while holder is not None and (heir := _read(self._after(holder))) is not None:
            if heir["token"] == self.token:  # ours, left when we gave up
                break
            path, holder = self._after(holder), heir
        return first, holder, path

    def _after(self, holder: dict) -> Path:
        return self.path.with_name(f".claim.after-{holder['name']}")

    def _succeed(self, first: dict | None, dead: dict) -> bool:
        """Take over from a dead holder, unless somebody else does.

        Each holder has one heir: who creates the file that is named after it. The claim itself is
        replaced and never missing, so that nobody who comes just now finds the place free.
        """
        mark = self._after(dead)
        if not self._put(mark):
            return False
        now = _read(self.path)
        if now is None or first is None or now["name"] != first["name"]:
            mark.unlink(missing_ok=True)  # an heir has come and gone since we looked
            return False
        self.taken_over = f"took over from process {dead['pid']} on {dead['host']}, which is gone"
        return self._put(self.path, over=True)


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


def _link(draft: Path, path: Path) -> bool:
    """Give a file a second name that must be free; atomic, content included, also on NFS."""
    try:
        os.link(draft, path)
        return True
    except FileExistsError:
        # a server may have done it and its answer been lost
        return draft.stat().st_nlink > 1 and draft.samefile(path)
    except FileNotFoundError:
        raise
    except OSError:
        pass
    return _create(draft, path)  # a file system without links


def _create(draft: Path, path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "w") as file:
            file.write(draft.read_text())
    except OSError:  # a full disk: an empty claim would keep others waiting
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> dict | None:
    """Return who holds a claim; all unknown if a kill came before it was written."""
    try:
        text, stat = path.read_text(errors="replace"), path.stat()
    except FileNotFoundError:
        return None
    holder: dict = {"pid": None, "host": None, "started": None, "token": ""}
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = json.loads(text)
        # numbers below 1 are groups of processes to a signal
        number = isinstance(found["pid"], int) and 0 < found["pid"] < 2**31
        if number and isinstance(found["host"], str) and isinstance(found["token"], str):
            holder |= found
    what = holder["token"] or f"{stat.st_ino} {stat.st_mtime_ns}"
    name = hashlib.sha256(what.encode()).hexdigest()[:16]
    return holder | {"heartbeat": stat.st_mtime, "name": name}


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
