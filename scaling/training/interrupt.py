"""Notice of a coming end, taken between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn

# Ctrl-C, a plain kill or `scancel`, and what Slurm's --signal=USR1 sends before a time limit
NOTICES = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """Collects a notice in a `with` block; a second Ctrl-C ends at once.

    Handlers that somebody else has set (a launcher that requeues) are left alone, except Ctrl-C's
    own default. Outside the main thread Python delivers no signals, so nothing is collected.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in NOTICES:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

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

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
