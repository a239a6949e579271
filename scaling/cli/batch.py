"""What a cluster's job executes: its runs one after another, through time limits and preemption.

A notice (the signal before a time limit, or SIGTERM) reaches the trainer, which saves and ends the
process; what ends here is put back into the queue, unless somebody cancelled it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from scaling.cli.progress import say
from scaling.cli.stopping import import_whole
from scaling.study.config import RunConfig
from scaling.study.errors import BusyError, FollowedError, RecordError, TrainError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import is_finished, read_record
from scaling.study.retries import count_tries
from scaling.training.claim import WATCH, find_claim
from scaling.training.interrupt import NOTICES, leave
from scaling.training.place import find_place

FRUITLESS = 3  # lives in a row without a step or a finished run, after which a job stops
REQUEUE = signal.SIGUSR2  # submitit's signal before a time limit
POLL_SECONDS = 1.0


class Batch:
    """A picklable function without arguments that trains groups of runs.

    Args:
        groups: configurations as mappings; those of one group train together.
        fruitless: lives before this one, in a row, that got nowhere.
    """

    def __init__(self, groups: Sequence[Sequence[dict[str, Any]]], *, fruitless: int = 0) -> None:
        self.groups = [list(group) for group in groups]
        self.fruitless = fruitless
        self.at_start: float | None = None

    def __call__(self) -> dict[str, str]:
        """Train; returns the status of each run by its id.

        Raises:
            TrainError: some runs failed; the others were trained.
            SystemExit: after a notice, everything saved.
        """
        requeue = signal.getsignal(REQUEUE)
        for number in (*NOTICES, REQUEUE):
            signal.signal(number, leave)
        try:
            self.at_start = self.progress()
            return self.train()
        except SystemExit as end:
            self._end(end, requeue)
            raise

    def checkpoint(self) -> Any:
        """Return what submitit starts in the next life; null, with a reason in the log, for none."""
        import submitit

        got_on = self.at_start is None or self.progress() > self.at_start
        fruitless = 0 if got_on else self.fruitless + 1
        if fruitless >= FRUITLESS:
            say(
                f"nothing was gained in {fruitless} lives of this job, so it is not started again. A longer "
                "hydra.launcher.timeout_min, or a smaller train.checkpoint_seconds, lets it get on."
            )
            return None
        return submitit.helpers.DelayedSubmission(Batch(self.groups, fruitless=fruitless))

    def plans(self) -> list[list[RunPlan]]:
        """Return the runs as they are planned on this machine."""
        return [[make_plan(RunConfig.from_dict(c)) for c in group] for group in self.groups]

    def progress(self) -> float:
        """Return how far the runs are by their records: steps, and one for each that is finished."""
        total = 0.0
        for plan in (p for group in self.plans() for p in group):
            try:
                total += read_record(plan.folder).steps or 0
            except RecordError:
                continue
            total += is_finished(plan.folder)
        return total

    def train(self) -> dict[str, str]:
        """Train group after group; one that fails does not stop the others."""
        problems: list[str] = []
        held = []
        for group in self.plans():
            if is_held(group):  # later, so that whoever holds it has the time to end
                held.append(group)
            else:
                _train_group(group, problems)
        for group in held:
            if wait_for_silent(group):
                _train_group(group, problems)
            else:
                say(f"{_names(group)}: trained by another process; left to it")
        if problems:
            raise TrainError("\n".join(problems))
        return {p.run_id: _status(p) for group in self.plans() for p in group}

    def _end(self, end: SystemExit, requeue: Any) -> None:
        """After a notice: back into the queue by submitit's own handler, unless somebody cancelled."""
        number = end.code - 128 if isinstance(end.code, int) else None
        if int(os.environ.get("SLURM_PROCID", "0")) or not callable(requeue):
            return  # one process speaks for all
        for other in (*NOTICES, REQUEUE):  # requeueing sends one more
            signal.signal(other, signal.SIG_IGN)
        # SIGTERM to a job that Slurm does not end: preemption with a grace time
        if number == REQUEUE or (number == signal.SIGTERM and is_wanted()):
            requeue(REQUEUE, None)


def is_wanted() -> bool:
    """Whether Slurm would let this job run on: it was neither cancelled nor is it being requeued."""
    command = ["squeue", "-h", "-j", os.environ.get("SLURM_JOB_ID", ""), "-o", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "RUNNING"


def _train_group(plans: list[RunPlan], problems: list[str]) -> None:
    """Train a group, as often as its runs have tries; the last error is added to `problems`."""
    tried = 0
    while plans:
        say(f"training {_names(plans)}")
        error = _try(plans)
        tried += 1  # here too, as a full disk keeps failures out of the record
        failed = [p for p in plans if error is not None and not is_finished(p.folder)]
        plans = [p for p in failed if tried <= p.config.retry.failed and _has_tries(p)]
        if lost := [p for p in failed if p not in plans]:
            problems.append(f"{_names(lost)}: {type(error).__name__}: {error}")


def _try(plans: list[RunPlan]) -> Exception | None:
    """Train a group once; returns what went wrong."""
    train_together = import_whole("scaling.training.trainer").train_together
    try:
        records = train_together(plans, on_progress=_print_losses())
    except (BusyError, FollowedError) as error:  # another process has it, or says what is wrong
        say(str(error))
        return None
    except Exception as error:  # the trainer has written it into the record; others go on
        say(f"{_names(plans)}: {type(error).__name__}: {error}", file=sys.stderr)
        return error
    for record in records:
        loss = "" if record.val_loss is None else f", loss {record.val_loss:.4f}"
        say(f"{record.run_id}: {record.status}{loss}")
    return None


def _has_tries(plan: RunPlan) -> bool:
    """Whether a run that failed may go better at once; processes of one run have to stay in step."""
    try:
        record = read_record(plan.folder)
    except RecordError:
        return False
    failed = record.status == "failed" and find_place() is None
    return failed and count_tries(record, plan.config).patient


def is_held(plans: Sequence[RunPlan]) -> bool:
    """Whether another job, or a process outside Slurm, is training one of these runs."""
    claims = [find_claim(p.folder, takeover=p.config.claim.takeover) for p in plans]
    # this job's other processes ask too, and may find that the first has begun
    mine = os.environ.get("SLURM_JOB_ID")
    return any(c is not None and (mine is None or c.get("job") != mine) for c in claims)


def wait_for_silent(plans: Sequence[RunPlan]) -> bool:
    """Wait while runs are claimed by a process that is not heard of, until they may be taken over.

    Returns:
        Whether they are free now; false as soon as a holder renews its claim, for then it lives.
    """
    beats = _heartbeats(plans)
    end = time.monotonic() + WATCH
    while is_held(plans):
        # by change, since clocks of hosts and of file systems differ
        if time.monotonic() > end and _heartbeats(plans) != beats:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _heartbeats(plans: Sequence[RunPlan]) -> list[float | None]:
    found: list[float | None] = []
    for plan in plans:
        try:
            found.append((plan.folder / "claim.json").stat().st_mtime)
        except FileNotFoundError:
            found.append(None)
    return found


def _names(plans: Sequence[RunPlan]) -> str:
    return ", ".join(p.run_id for p in plans)


def _status(plan: RunPlan) -> str:
    try:
        return read_record(plan.folder).status
    except RecordError:
        return "waiting"


def _print_losses() -> Callable[[dict[str, Any]], None]:
    """In a job's log: a line whenever a validation loss is measured."""
    last: list[float] = []

    def show(state: dict[str, Any]) -> None:
        loss = state.get("val_loss")
        if loss is not None and [loss] != last:
            last[:] = [loss]
            say(f"step {state.get('step')}/{state.get('steps')}: validation loss {loss:.4f}")

    return show
