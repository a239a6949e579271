"""A sweep in several processes stops together: its runs save where they are, and nobody is left.

Ctrl-C or SIGTERM reaches the launcher, which tells its workers and waits for their checkpoints. A
worker whose launcher was killed finds itself without a parent, saves and leaves.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from scaling.cli.progress import say
from scaling.study.plan import RunPlan
from scaling.training.claim import read_claim
from scaling.training.interrupt import NOTICES

PATIENCE = 60.0  # s for checkpoints to be written; a second notice ends at once
ORPHAN_SECONDS = 1.0  # between looks for the launcher
_VARIABLE = "SCALING_LAUNCHER"  # process number of the launcher, inherited by its workers

_watching = False  # whether this process looks for its launcher
# of a worker: the launcher it belongs to; null in every other process
_launcher = os.getppid() if os.environ.get(_VARIABLE) == str(os.getppid()) else None


@contextmanager
def stop_together(plans: Sequence[RunPlan]) -> Iterator[None]:
    """While workers train, let a notice to the launcher end with saved runs."""
    os.environ[_VARIABLE] = str(os.getpid())
    if threading.current_thread() is not threading.main_thread():  # no signals are delivered there
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        number = signal.SIGINT if keyboard.pressed else number
        say("\nstopping: runs in progress save where they are", file=sys.stderr)
        _save_all(plans)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    keyboard = _Keyboard()
    before: dict[int, Any] = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        with keyboard:
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def import_whole(name: str) -> Any:
    """Import a module of ours that needs torch; Ctrl-C and its like wait until that is done.

    Broken half way, torch's C code swallows the notice and goes on with half a numpy, which a later
    import stumbles over (AttributeError: no attribute 'matrix'; seen with torch 2.9, numpy 2.3).
    """
    if not hasattr(signal, "pthread_sigmask"):
        return importlib.import_module(name)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    try:
        return importlib.import_module(name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Keyboard:
    """Ctrl-C for the launcher alone, in a `with` block.

    A terminal sends it to workers too, which may still be importing and know no better than to
    die with a traceback. They inherit that it is blocked; here a thread waits for it, and tells
    the main thread by SIGTERM.
    """

    def __init__(self) -> None:
        self.pressed = self._over = False
        self._main = threading.get_ident()

    def __enter__(self) -> _Keyboard:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(signal, "pthread_sigmask"):
            self._over = True
            if self._thread.is_alive() and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, signal.SIGINT)
                self._thread.join(timeout=5)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _listen(self) -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            if self._over:
                return
            self.pressed = True
            signal.pthread_kill(self._main, signal.SIGTERM)


def _save_all(plans: Sequence[RunPlan]) -> None:
    """Tell each run that a worker of ours holds to save, and wait until none is held."""
    told: set[str] = set()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        claims = [
            c for p in plans if (c := read_claim(p.folder)) and c.get("parent") == os.getpid()
        ]
        if not claims:
            return
        for claim in claims:
            if claim["token"] not in told:
                told.add(claim["token"])
                with suppress(ProcessLookupError):
                    os.kill(claim["pid"], signal.SIGTERM)
        time.sleep(0.1)


def is_orphaned() -> bool:
    """Whether this is a launcher's worker, and the launcher is gone."""
    return _launcher is not None and os.getppid() != _launcher


def leave_with_launcher(pid: int | None = None) -> None:
    """From now on let this worker save and leave once its launcher is gone, also while it waits for work.

    Args:
        pid: the launcher's process number; null: as the launcher has left it in the environment.
    """
    global _launcher, _watching
    _launcher = pid or _launcher
    if _launcher is None or _watching:
        return
    _watching = True

    def watch() -> None:
        # by the clock: rows of a long run may be minutes apart, and an idle worker writes none
        while not is_orphaned():
            time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)  # runs in progress take it as notice

    threading.Thread(target=watch, daemon=True).start()


def leave_if_orphaned() -> None:
    """End this worker, which would wait for other work, once nobody is there to give it."""
    if is_orphaned():
        os._exit(128 + signal.SIGTERM)
