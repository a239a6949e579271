"""A table that follows the records: in place in a terminal, a line per change in a log."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from scaling.cli.progress import say
from scaling.cli.tally import ACTIVE, RunLine, changes, headline

EVERY = 2.0  # s between looks
LAW_EVERY = 30.0  # s between fits at most: one takes seconds of a core

Look = Callable[[], list[RunLine]]


class View:
    """What is watched.

    Args:
        name: of the sweep.
        look: reads what changed and returns every run.
        text: the table of runs, at most so many lines of it.
        law: the line below, fitted to the records of the last look; null: none.
        folder: of the records; null: not known.
    """

    def __init__(
        self,
        name: str,
        look: Look,
        text: Callable[[list[RunLine]], str],
        law: Callable[[], str] | None,
        *,
        folder: Path | None = None,
    ) -> None:
        self.name, self.look, self.text, self.law, self.folder = name, look, text, law, folder

    def end(self) -> str:
        """Say why there is nothing more to see."""
        if self.folder is not None and not self.folder.is_dir():
            return f"{self.folder} is gone: moved, or deleted. Nothing more to watch."
        return "Nothing runs or waits any more."


def watch(view: View, *, every: float = EVERY) -> None:
    """Show a sweep until nothing of it runs or waits any more, or q or Ctrl-C is pressed.

    Args:
        every: seconds between looks at the records.
    """
    console = Console()
    with contextlib.suppress(KeyboardInterrupt):  # leaving is no error: nothing depends on the view
        if console.is_terminal and not console.is_dumb_terminal:
            _watch_in_place(view, console, every)
        else:
            _watch_in_log(view, every)


def _watch_in_place(view: View, console: Console, every: float) -> None:
    law = _Law(view)
    with _keys() as pressed, Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            runs = view.look()
            law.ask(runs)
            over = not _goes_on(runs)
            if over:
                law.wait()
            text = _screen(view, runs, law.line, over=over)
            live.update(_fitted(text, console), refresh=True)
            if over or pressed(every):
                return


def _screen(view: View, runs: list[RunLine], law: str, *, over: bool) -> tuple[str, str]:
    """Return the table, and the lines below it that are always seen."""
    clock = datetime.now().strftime("%H:%M:%S")
    foot = view.end() if over else f"{clock}  q leaves; training goes on"
    return view.text(runs), "\n".join(filter(None, [law, foot]))


def _fitted(text: tuple[str, str], console: Console) -> Group:
    """Cut the table to the terminal, so that what stands below it stays in sight."""
    table, foot = text
    width, height = console.size
    below = sum(-(-len(line) // max(1, width)) for line in foot.split("\n"))
    lines = table.split("\n")
    room = max(3, height - below - 2)
    if len(lines) > room:
        lines = [
            *lines[: room - 1],
            f"... {len(lines) - room + 1} lines more than this terminal has",
        ]
    return Group(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), Text(f"\n{foot}"))


def _watch_in_log(view: View, every: float) -> None:
    """Print the counts, then a line for each run whose state changes."""
    before: dict[str, RunLine] = {}
    while True:
        runs = view.look()
        now = {run.run_id: run for run in runs}
        if not before:
            say(headline(view.name, runs))
        else:
            clock, done = datetime.now().strftime("%H:%M:%S"), sum(r.state == "done" for r in runs)
            for line in changes(before, now):
                say(f"{clock} {done}/{len(runs)} {line}")
        if not _goes_on(runs):
            break
        before = now
        time.sleep(every)
    if view.folder is not None and not view.folder.is_dir():
        say(view.end())
    elif view.law is not None:
        say(view.law())


def _goes_on(runs: list[RunLine]) -> bool:
    return any(run.state in ACTIVE for run in runs)


class _Law:
    """The line below the table, fitted beside the view, since a fit takes longer than a look."""

    def __init__(self, view: View) -> None:
        self.view, self.line = view, ""
        self._done = -1
        self._asked = float("-inf")
        self._thread: threading.Thread | None = None

    def ask(self, runs: list[RunLine]) -> None:
        """Fit anew if more runs are done, and it is time."""
        done = sum(run.state == "done" for run in runs)
        busy = self._thread is not None and self._thread.is_alive()
        soon = time.monotonic() - self._asked < LAW_EVERY and any(r.state in ACTIVE for r in runs)
        if self.view.law is None or done == self._done or busy or soon:
            return
        self._done, self._asked = done, time.monotonic()
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Let a fit end that is under way."""
        if self._thread is not None:
            self._thread.join()

    def _fit(self) -> None:
        assert self.view.law is not None
        self.line = self.view.law()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Read single keys; yields a function that waits so long and says whether q was pressed."""
    terminal: Any = None
    with contextlib.suppress(ImportError):  # not on Windows, where Ctrl-C leaves
        import termios as terminal
    if terminal is None or not sys.stdin.isatty():
        yield _sleep
        return
    import tty

    handle = sys.stdin.fileno()
    before = terminal.tcgetattr(handle)
    try:
        tty.setcbreak(handle)  # Ctrl-C stays a signal
        yield lambda seconds: _pressed_q(handle, seconds)
    finally:
        terminal.tcsetattr(handle, terminal.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _pressed_q(handle: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([handle], [], [], left)[0]:
            return False
        key = os.read(handle, 1)
        if key in (b"q", b"Q", b"\x04", b""):
            return True
    return False
