"""Rounds of a sweep: train what is missing, then what other launches left, until all have an end.

Two launchers of one sweep, also on two machines, share its work: each leaves out what the other
is training, waits for it in the end, and takes over what was given up. A run that failed comes again
in a later round while it has tries left.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from scaling.cli.compose import Point
from scaling.cli.jobs import Job, arrange_jobs
from scaling.cli.progress import say
from scaling.cli.standing import count, shorten
from scaling.study.errors import BusyError, RecordError, ScalingError
from scaling.study.plan import RunPlan
from scaling.study.record import is_finished, read_record
from scaling.study.retries import Tries, count_tries
from scaling.training.claim import find_holder
from scaling.training.place import is_first

POLL_SECONDS = 1.0

Missing = list[tuple[Point, RunPlan]]
Launch = Callable[[Sequence[Job]], list[Any]]


def train_in_rounds(
    name: str,
    missing: Missing,
    launch: Launch,
    *,
    workers: int | None,
    share: bool = True,
    before: Mapping[str, int] | None = None,
    follow: Callable[[], Missing] = list,
) -> tuple[list[Any], int]:
    """Launch jobs until every run has an end here or in another launch.

    Args:
        name: the sweep's, for messages.
        missing: runs that are not finished.
        launch: trains jobs and returns Hydra's results.
        workers: as in `arrange_jobs`.
        share: whether to wait for other launches; processes of one run cannot go apart.
        before: failures by run id that are not counted as tries.
        follow: returns the runs that follow diverged ones, asked after every round.

    Returns:
        Hydra's results of all rounds, and how many runs failed.

    Raises:
        ScalingError: workers are killed from outside, and nothing gets done.
    """
    results: list[Any] = []
    failed: set[str] = set()
    known = {plan.run_id for _, plan in missing}
    tried: Counter[str] = Counter()
    left = missing
    while left:
        # 1. a round; what another launch is training comes later
        jobs = arrange_jobs(left, workers=workers)
        if (together := describe_jobs(jobs)) and is_first():
            say(f"{name}: {together}", file=sys.stderr)
        try:
            now = launch(jobs)
        except BrokenExecutor:
            left = _after_a_kill(name, left)
            continue
        results += now
        # 2. which runs had no end: another's, failed, or failed with tries left
        busy = _busy_runs(now, jobs) if share else set()
        errors = find_failures(now, jobs, busy=busy)
        tried.update(list(errors))
        again = _tries_left(left, errors, before or {}, tried)
        report_failures(errors, again)
        failed |= set(errors) - set(again)
        # 3. what is left for the next round
        new = [(point, plan) for point, plan in follow() if plan.run_id not in known]
        known |= {plan.run_id for _, plan in new}
        waiting = [run for run in left if run[1].run_id in busy]
        left = [run for run in left if run[1].run_id in again] + [r for r in new if not is_finished(r[1].folder)]  # fmt: skip
        left = [*left, *waiting] if left else _wait(name, waiting)
    if failed:
        say(
            f"{len(failed)} of {count(len(known), 'run')} failed; the others are recorded. The same command "
            "tries again what has tries left, and says what has not.",
            file=sys.stderr,
        )
    return results, len(failed)


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
            if not is_finished(plan.folder) and (refused or _holder(plan)):
                busy.add(plan.run_id)
    return busy


def _wait(name: str, busy: Missing) -> Missing:
    """Wait until another launch has finished these runs; return what it gave up, with the rest."""
    told: set[str] = set()
    while busy:
        holders = {plan.run_id: _holder(plan) for _, plan in busy}
        for holder in sorted({h for h in holders.values() if h} - told):
            told.add(holder)
            runs = ", ".join(i for i, h in holders.items() if h == holder)
            say(f"{name}: {holder} is training {runs}; waiting for it.", file=sys.stderr)
        # in this order: a run that ends is first finished and then let go
        busy = [(p, plan) for p, plan in busy if not is_finished(plan.folder)]
        if any(not holders[plan.run_id] for _, plan in busy):
            return busy
        if busy:
            time.sleep(POLL_SECONDS)
    return []


def _holder(plan: RunPlan) -> str | None:
    return find_holder(plan.folder, takeover=plan.config.claim.takeover)


def find_failures(
    results: Sequence[Any], jobs: Sequence[Job], *, busy: Collection[str] = ()
) -> dict[str, str]:
    """Return, by run id, why runs of a round failed.

    Args:
        results: Hydra's, one per job.
        jobs: what was launched.
        busy: runs that are another launch's.
    """
    failed: dict[str, str] = {}
    for job, result in zip(jobs, results, strict=True):
        error = getattr(result, "_return_value", None)
        if isinstance(error, Exception):
            failed |= {
                p.run_id: str(error)
                for p in job.plans
                if p.run_id not in busy and not is_finished(p.folder)
            }
    return failed


def report_failures(errors: Mapping[str, str], again: Mapping[str, Tries]) -> None:
    """Print the failed runs by their reason, and which of them are tried again now."""
    by_reason: dict[str, list[str]] = {}
    for run_id, reason in errors.items():
        by_reason.setdefault(reason, []).append(run_id)
    for reason, runs in by_reason.items():
        say(f"{', '.join(runs)} failed: {reason}", file=sys.stderr)
    for run_id, tries in again.items():
        say(
            f"{run_id}: try {tries.used + 1} of {tries.allowed} follows ({shorten(tries.reason)})",
            file=sys.stderr,
        )


def _tries_left(
    runs: Missing, failed: Collection[str], before: Mapping[str, int], tried: Mapping[str, int]
) -> dict[str, Tries]:
    """Return the tries of those runs that may go better if they are simply started again."""
    again = {}
    for plan in (plan for _, plan in runs if plan.run_id in failed):
        if tried[plan.run_id] > plan.config.retry.failed:
            continue  # on a full disk the record does not count, and would say "once" for ever
        try:
            record = read_record(plan.folder)
        except RecordError:
            continue
        tries = count_tries(record, plan.config, before=before.get(plan.run_id, 0))
        if record.status == "failed" and tries.patient:
            again[plan.run_id] = tries
    return again
