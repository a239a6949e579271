"""Rounds of a sweep: train what is missing, then what other launches left, until all have an end.

Two launchers of one sweep, also on two machines, share its work: each leaves out what the other
is training, waits for it in the end, and takes over what was given up.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from scaling.cli.compose import Point
from scaling.cli.jobs import Job, arrange_jobs
from scaling.cli.progress import say
from scaling.study.errors import BusyError, ScalingError
from scaling.study.plan import RunPlan
from scaling.study.record import is_finished
from scaling.training.claim import find_holder
from scaling.training.place import is_first

POLL_SECONDS = 1.0

Missing = list[tuple[Point, RunPlan]]
Launch = Callable[[Sequence[Job]], list[Any]]


def train_in_rounds(
    name: str, missing: Missing, launch: Launch, *, workers: int | None, share: bool = True
) -> tuple[list[Any], int]:
    """Launch jobs until every run has an end here or in another launch.

    Args:
        name: the sweep's, for messages.
        missing: runs that are not finished.
        launch: trains jobs and returns Hydra's results.
        workers: as in `arrange_jobs`.
        share: whether to wait for other launches; processes of one run cannot go apart.

    Returns:
        Hydra's results of all rounds, and how many runs failed.

    Raises:
        ScalingError: workers are killed from outside, and nothing gets done.
    """
    results: list[Any] = []
    failed, left = 0, missing
    while left:
        jobs = arrange_jobs(left, workers=workers)
        if (together := describe_jobs(jobs)) and is_first():
            say(f"{name}: {together}", file=sys.stderr)
        try:
            now = launch(jobs)
        except BrokenExecutor:
            left = _after_a_kill(name, left)
            continue
        results += now
        busy = _busy_runs(now, jobs) if share else set()
        failed += report_failures(now, jobs, busy=busy)
        left = _wait(name, [(point, plan) for point, plan in left if plan.run_id in busy])
    return results, failed


def describe_jobs(jobs: Sequence[Job]) -> str:
    """Say which runs train together, and so end together; an empty string if none do."""
    kinds = Counter(text for job in jobs if (text := job.describe()))
    if not kinds:
        return ""
    said = "; ".join(f"{n} x {text}" if n > 1 else text for text, n in kinds.items())
    return f"{said}. These end together, and are listed then."


def _after_a_kill(name: str, left: Missing) -> Missing:
    """Return what a killed worker, and the pool that went with it, left unfinished."""
    still = [(point, plan) for point, plan in left if not is_finished(plan.folder)]
    if len(still) == len(left):
        raise ScalingError(
            f"{name}: a worker process was killed from outside, perhaps for want of memory. The same command goes "
            "on; hydra.launcher.n_jobs=1 needs the least memory."
        ) from None
    say(
        f"{name}: a worker process was killed from outside, perhaps for want of memory; going on with {len(still)} runs.",
        file=sys.stderr,
    )
    return still


def _busy_runs(results: Sequence[Any], jobs: Sequence[Job]) -> set[str]:
    """Return the runs that were not trained because another launch is at it."""
    busy = set()
    for job, result in zip(jobs, results, strict=True):
        refused = isinstance(getattr(result, "_return_value", None), BusyError)
        for plan in job.plans:
            if not is_finished(plan.folder) and (refused or find_holder(plan.folder)):
                busy.add(plan.run_id)
    return busy


def _wait(name: str, busy: Missing) -> Missing:
    """Wait until another launch has finished these runs; return what it gave up."""
    told: set[str] = set()
    while busy:
        holders = {plan.run_id: find_holder(plan.folder) for _, plan in busy}
        for holder in sorted({h for h in holders.values() if h} - told):
            told.add(holder)
            runs = ", ".join(i for i, h in holders.items() if h == holder)
            say(f"{name}: {holder} is training {runs}; waiting for it.", file=sys.stderr)
        # in this order: a run that ends is first finished and then let go
        given_up = [(p, plan) for p, plan in busy if not holders[plan.run_id] and not is_finished(plan.folder)]  # fmt: skip
        if given_up:
            return given_up
        busy = [(p, plan) for p, plan in busy if not is_finished(plan.folder)]
        if busy:
            time.sleep(POLL_SECONDS)
    return []


def report_failures(
    results: Sequence[Any], jobs: Sequence[Job], *, busy: Collection[str] = ()
) -> int:
    """Print each job's failed runs with their reason; return how many failed.

    Args:
        results: Hydra's, one per job.
        jobs: what was launched.
        busy: runs that are another launch's.
    """
    runs = sum(len(job.plans) for job in jobs)
    failed = 0
    for job, result in zip(jobs, results, strict=True):
        error = getattr(result, "_return_value", None)
        if isinstance(error, Exception):
            unfinished = [
                p.run_id for p in job.plans if not is_finished(p.folder) and p.run_id not in busy
            ]
            failed += len(unfinished)
            if unfinished:
                say(f"{', '.join(unfinished)} failed: {error}", file=sys.stderr)
    if failed:
        say(
            f"{failed} of {runs} runs failed; the others are recorded. The same command tries the failed ones again.",
            file=sys.stderr,
        )
    return failed
