"""Handing a sweep to a queue: what is not there yet is submitted once, whoever asks and how often."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from scaling.cli.compose import Point
from scaling.cli.jobs import Job, arrange_jobs
from scaling.cli.progress import say, sweep_progress
from scaling.cli.submissions import LOGS, Submission, describe_queued, ended_runs, queued_runs
from scaling.study.errors import BusyError, RecordError, TrainError
from scaling.study.plan import RunPlan
from scaling.study.record import is_finished, read_record
from scaling.training.claim import Claim

POLL_SECONDS = 5.0  # between questions to the queue; administrators ask for no more than this
GONE = 3  # times in a row that the queue does not have a job, until it has ended

Missing = Sequence[tuple[Point, RunPlan]]


@runtime_checkable
class Queue(Protocol):
    """A launcher that takes jobs and returns before they are done."""

    @property
    def wait(self) -> bool:
        """Whether a launch stays until the jobs have ended."""

    def submit(self, jobs: Sequence[Job], folder: Path) -> list[Submission]:
        """Submit jobs of the sweep whose results are in a folder."""


def hand_over(name: str, folder: Path, missing: Missing, queue: Queue, *, done: int) -> int:
    """Submit the runs that are not queued yet; wait for all of them if the launcher is to.

    Args:
        name: the sweep's.
        folder: of its results.
        missing: runs that are not finished.
        queue: takes the jobs.
        done: runs that were finished before.

    Returns:
        How many runs failed, as far as it waited for them.

    Raises:
        TrainError: the queue cannot say what it has, or refuses.
    """
    with _alone(name, folder / LOGS):
        queued = queued_runs(folder)
        left = [(point, plan) for point, plan in missing if plan.run_id not in queued]
        _say_queued(name, [q for _, p in missing if (q := queued.get(p.run_id))], left)
        submitted = queue.submit(arrange_jobs(left), folder) if left else []
    if submitted:
        say(_describe(name, folder, submitted, at_once=not queue.wait))
    if not queue.wait:
        return 0
    plans = [plan for _, plan in missing]
    try:
        with sweep_progress(plans, done=done):
            _follow(folder, plans)
    except KeyboardInterrupt:
        say(f"{name}: the jobs go on without this; `scaling status {name}` tells.", file=sys.stderr)
        raise
    return _say_failures(folder, plans)


def _say_queued(name: str, queued: Sequence[Any], left: Missing) -> None:
    """Say what is not submitted again.

    Raises:
        TrainError: nobody knows whether it is still queued.
    """
    if any(q.state == "unknown" for q in queued):
        raise TrainError(
            f"{name}: {len(queued)} of its runs were submitted before, and squeue does not answer here. Ask again where it "
            "does, or when it does; or train here by leaving out hydra/launcher."
        )
    if queued:
        rest = f"{len(left)} runs are submitted now" if left else "nothing is left to submit"
        say(f"{name}: {describe_queued(queued)} are in the queue already; {rest}.")


@contextmanager
def _alone(name: str, folder: Path) -> Iterator[None]:
    """Let one person at a time submit a sweep, so that the second finds what the first has done."""
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        claim = Claim(folder)
        try:
            claim.__enter__()
            break
        except BusyError:
            if not told:
                say(f"{name}: being submitted by another process; waiting for it.", file=sys.stderr)
            told = True
            time.sleep(0.5)
    try:
        yield
    finally:
        claim.__exit__()


def _describe(name: str, folder: Path, submissions: Sequence[Submission], *, at_once: bool) -> str:
    """Say what was submitted, how to look at it and how to cancel it."""
    runs = sum(len(ids) for s in submissions for ids in s.jobs.values())
    jobs = sum(len(s.jobs) for s in submissions)
    arrays = " ".join(a for s in submissions for a in s.arrays)
    head = f"{name}: submitted {_count(runs, 'run')} as {_count(jobs, 'job')} ({arrays})"
    lines = [
        f"  watch:   scaling status {name} --watch",
        f"  cancel:  scancel {arrays}",
        f"  logs:    {folder / LOGS}",
    ]
    if at_once:
        lines.append("You may log out. The same command again submits what has ended unfinished, and nothing twice.")  # fmt: skip
    return "\n".join([head, *lines])


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _follow(folder: Path, plans: Sequence[RunPlan]) -> None:
    """Wait until every run is finished or has left the queue."""
    gone: dict[str, int] = {}
    left = list(plans)
    while left:
        queued = queued_runs(folder)
        left = [p for p in left if not is_finished(p.folder)]
        for plan in left:
            gone[plan.run_id] = 0 if plan.run_id in queued else gone.get(plan.run_id, 0) + 1
        left = [p for p in left if gone[p.run_id] < GONE]
        if left:
            time.sleep(POLL_SECONDS)


def _say_failures(folder: Path, plans: Sequence[RunPlan]) -> int:
    """Print each run that ended unfinished, with its reason; return how many."""
    unfinished = [p for p in plans if not is_finished(p.folder)]
    ended = ended_runs(folder, [p.run_id for p in unfinished])
    for plan in unfinished:
        reason = _reason(plan) or ended.get(plan.run_id, "no job of it is known")
        say(f"{plan.run_id} failed: {reason}", file=sys.stderr)
    if unfinished:
        say(
            f"{len(unfinished)} of {len(plans)} runs failed; the others are recorded. The same command submits the failed ones again.",
            file=sys.stderr,
        )
    return len(unfinished)


def _reason(plan: RunPlan) -> str | None:
    """Return the reason that a run's own record gives."""
    try:
        record = read_record(plan.folder)
    except RecordError:
        return None
    return record.reason if record.status == "failed" else None
