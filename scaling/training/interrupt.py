"""Notice of a coming end, taken between two steps instead of in the middle of one.

Whoever sends it may follow with SIGKILL half a minute later. So it ends at once whatever can be done
again (reading text, compiling, evaluating), and waits only for a training step or a file.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# Ctrl-C, a plain kill or `scancel`, and what Slurm sends before a time limit: --signal=USR1 where
# people write it themselves, USR2 where submitit does
NOTICES = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End the process as a signal would, by SystemExit: a handler for where nothing is to be saved.

    Unlike handlers of others it is replaced by `Interrupt`.
    """
    raise SystemExit(128 + number)


_REPLACED = (signal.SIG_DFL, signal.default_int_handler, leave)


class Notice(BaseException):
    """A notice has come, and nothing is half done; state is saved where this is caught."""


class Interrupt:
    """Collects a notice in a `with` block; a second Ctrl-C ends at once.

    A notice raises `Notice` where it arrives; within `deferred()` it is kept in `signal`, and within
    `prompt()` in there it raises again. Handlers that somebody else has set (a launcher that
    requeues) are left alone, except Ctrl-C's own default. Outside the main thread Python delivers no
    signals, so nothing is collected.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._prompt = True
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in NOTICES:
                if signal.getsignal(number) in _REPLACED:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep a notice for `check`."""
        with self._mode(prompt=False):
            yield

    @contextlib.contextmanager
    def prompt(self) -> Iterator[None]:
        """Let a notice, also one that was kept, end this at once."""
        self.check()
        with self._mode(prompt=True):
            yield

    def check(self) -> None:
        """Raise Notice if one was kept."""
        if self.signal is not None:
            raise Notice

    def stop(self) -> NoReturn:
        """End the process's work as the signal would have, after state was saved.

        Raises:
            KeyboardInterrupt: for Ctrl-C.
            SystemExit: for the others, with the exit code that a shell gives them.
        """
        assert self.signal is not None
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)

    @contextlib.contextmanager
    def _mode(self, *, prompt: bool) -> Iterator[None]:
        before, self._prompt = self._prompt, prompt
        try:
            yield
        finally:
            self._prompt = before

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = self.signal is not None
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._prompt and not again:  # one notice is enough; the second finds it being saved
            raise Notice
