"""Progress that is pleasant in a terminal and quiet in a log; it reads records only."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from scaling.study.config import config_values
from scaling.study.errors import RecordError
from scaling.study.plan import RunPlan
from scaling.study.record import FINISHED, RunRecord, read_record
from scaling.study.units import format_duration, format_quantity

POLL_SECONDS = 0.5
LONG = 600.0  # s left from which it is said how a sweep could go faster
UPDATE_SECONDS = 30.0  # in a log: how long nothing is said while nothing ends


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print a line while a run depends on this process: a reader that has gone does not stop it.

    After `... | head` what is printed is lost, and training goes on.
    """
    stream = sys.stdout if file is None else file
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def figure_progress() -> Iterator[Callable[[str], None]]:
    """Show which figure is being drawn; a log is told nothing, for it is a matter of seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name: None
        return
    with console.status("Reading ...") as status:
        yield lambda name: status.update(f"Drawing {name.replace('_', ' ')} ...")


@contextmanager
def run_progress(plan: RunPlan) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show one run's steps, loss and throughput; yields the trainer's callback."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(plan)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(plan.run_id, total=plan.steps, note="preparing data")

        def show(state: dict[str, Any]) -> None:
            progress.update(task, completed=state.get("step", 0), note=_note(state))

        yield show


def _note(state: dict[str, Any]) -> str:
    loss = state.get("val_loss") or state.get("train_loss")
    speed = state.get("tokens_per_second")
    texts = [
        state.get("message"),
        f"loss {loss:.3f}" if loss is not None else None,
        f"{format_quantity(speed)} tokens/s" if speed else None,
    ]
    return "  ".join(t for t in texts if t)


def _log_lines(plan: RunPlan) -> Callable[[dict[str, Any]], None]:
    """In a log: a line when validation loss is measured, and no more."""
    last: list[float] = []

    def show(state: dict[str, Any]) -> None:
        loss = state.get("val_loss")
        if loss is not None and [loss] != last:  # the newest is repeated until the next one
            last[:] = [loss]
            say(f"{plan.run_id} step {state['step']}/{plan.steps} {_note(state)}", file=sys.stderr)

    return show


@contextmanager
def sweep_progress(
    plans: Sequence[RunPlan], *, done: int, hint: str | None = None
) -> Iterator[Watch]:
    """Show a sweep's runs while a launcher, any launcher, trains them; reads their records.

    Yields what further runs can join.

    Args:
        plans: runs that are about to be trained.
        done: runs of the sweep that were finished before.
        hint: said once if the sweep turns out to be long.
    """
    console = Console(stderr=True)
    watch = Watch(plans, done, console, hint=hint)
    thread = threading.Thread(target=watch.loop, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop.set()
        thread.join(timeout=5)


class Watch:
    """Polls the folders of runs and draws what changed."""

    def __init__(
        self, plans: Sequence[RunPlan], done: int, console: Console, *, hint: str | None = None
    ) -> None:
        self.hint = hint
        self.plans = {p.run_id: p for p in plans}
        self.total, self.before = len(plans) + done, done
        self.console = console
        self.stop = threading.Event()
        self.work = {i: p.flops_counted for i, p in self.plans.items()}
        self.started = time.time()
        self.finished: set[str] = set()
        # ends that were said; a run that failed may have several
        self.told: set[tuple[str, str | None]] = set()
        self.own = what_differs(plans)
        self.said = self.started
        self.share_before = self._share(self._records())

    def join(self, plans: Sequence[RunPlan]) -> None:
        """Watch further runs, which nobody knew of when the sweep was launched."""
        new = {p.run_id: p for p in plans if p.run_id not in self.plans}
        # new mappings, as another thread goes through the old ones
        self.work = self.work | {i: p.flops_counted for i, p in new.items()}
        self.own = what_differs([*self.plans.values(), *new.values()])
        self.plans = self.plans | new
        self.total += len(new)

    def loop(self) -> None:
        if not self.console.is_terminal:
            while not self.stop.wait(POLL_SECONDS):
                self._log()
            self._log()
            return
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} % of compute"),
            TextColumn("{task.fields[runs]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(
                "training", total=sum(self.work.values()) or 1, runs="", left=""
            )
            while True:
                stopping = self.stop.wait(POLL_SECONDS)
                records = self._records()
                for line in self._news(records):
                    progress.console.print(line, highlight=False)
                share = self._share(records)
                left = seconds_left(time.time() - self.started, before=self.share_before, now=share)
                for line in self._advice(left):
                    progress.console.print(line, highlight=False)
                running = sum(r.status == "running" for r in records.values())
                progress.update(
                    task, completed=share * sum(self.work.values()),
                    runs=f"{len(self.finished) + self.before}/{self.total} runs, {running} running",
                    left=f"about {format_duration(left)} left" if left else "",
                )  # fmt: skip
                if stopping:
                    return

    def _log(self) -> None:
        records = self._records()
        lines = self._news(records)
        if not lines and time.time() - self.said >= UPDATE_SECONDS:
            lines = self._update(records)
        for line in lines:
            say(line, file=sys.stderr)
            self.said = time.time()

    def _update(self, records: dict[str, RunRecord]) -> list[str]:
        """Return a line on how far the sweep is, for a log in which no run ends for a while."""
        share = self._share(records)
        left = seconds_left(time.time() - self.started, before=self.share_before, now=share)
        running = sum(r.status == "running" for r in records.values())
        head = f"{len(self.finished) + self.before:>4}/{self.total} runs, {running} running, {share:.0%} of compute"
        line = f"{head}, about {format_duration(left)} left" if left else head
        return [line, *self._advice(left)]

    def _advice(self, left: float | None) -> list[str]:
        """Return the hint once, when so many seconds are left that it is worth a start anew."""
        if not self.hint or not left or left < LONG:
            return []
        hint, self.hint = self.hint, None
        return [f"about {format_duration(left)} are left, {hint}"]

    def _records(self) -> dict[str, RunRecord]:
        records = {}
        for run_id, plan in self.plans.items():
            try:
                records[run_id] = read_record(plan.folder)
            except RecordError:
                continue  # not started yet
        return records

    def _news(self, records: dict[str, RunRecord]) -> list[str]:
        """Return a line for each run that ended since the last look, numbered one by one."""
        # a record that had failed before this launch is not an end of this launch
        ended = [
            r
            for r in records.values()
            if (r.run_id, r.finished_at) not in self.told and _ended_since(r, self.started)
        ]
        lines = []
        for record in sorted(ended, key=lambda r: r.finished_at or ""):
            self.told.add((record.run_id, record.finished_at))
            if record.status in FINISHED:
                self.finished.add(record.run_id)
            own = self.own.get(record.run_id, "")
            lines.append(_line(record, len(self.finished) + self.before, self.total, own=own))
        return lines

    def _share(self, records: dict[str, RunRecord]) -> float:
        """Share of the compute that is done, by steps of each run; of a run that ended early, all."""
        total = sum(self.work.values()) or 1.0
        shares = {
            i: 1.0 if i in self.finished else (r.steps or 0) / max(1, r.steps_planned or 1)
            for i, r in records.items()
        }
        return sum(self.work.get(i, 0.0) * s for i, s in shares.items()) / total


def seconds_left(elapsed: float, *, before: float, now: float) -> float | None:
    """Estimate the time left from the share done in this launch; None while it is too early.

    Args:
        elapsed: seconds since the launch.
        before: share that interrupted runs brought with them; now: share that is done.
    """
    gained = now - before
    return elapsed * (1 - now) / gained if gained > 0.02 else None


def _ended_since(record: RunRecord, start: float) -> bool:
    if record.status == "running" or record.finished_at is None:
        return False
    from datetime import datetime

    return datetime.fromisoformat(record.finished_at).timestamp() >= start - 1


_IN_THE_NAME = ("model.params", "budget.", "seed")  # what a run's name shows


def what_differs(plans: Sequence[RunPlan]) -> dict[str, str]:
    """Return for each run the keys in which the runs differ and its name does not show: `lr=0.01`."""
    values = {p.run_id: {k.name: v for k, v in config_values(p.config) if k.numbers} for p in plans}
    names = [
        name
        for name in next(iter(values.values()), {})
        if not name.startswith(_IN_THE_NAME) and len({repr(v[name]) for v in values.values()}) > 1
    ]
    return {
        i: ", ".join(f"{name.rsplit('.', 1)[-1]}={v[name]}" for name in names)
        for i, v in values.items()
    }


def _line(record: RunRecord, number: int, total: int, *, own: str = "") -> str:
    head = f"{number:>4}/{total} {record.run_id}" + (f"  {own}" if own else "")
    if record.status != "done":
        return f"{head}  {record.status}: {record.reason}"
    return f"{head}  loss {record.val_loss:.4f}  {format_duration(record.seconds)}  {format_quantity(record.tokens_per_second)} tokens/s"


@contextmanager
def step_progress(text: str) -> Iterator[Callable[[str, float], None]]:
    """Show work whose share is known; yields a callback of message and share."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(text, total=1.0)
        yield lambda message, share: progress.update(
            task, description=f"{text} ({message})", completed=share
        )


def progress_bar() -> Progress:
    """Return a progress bar with counts, for long work that is not a run."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
