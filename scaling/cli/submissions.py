"""What was handed to a cluster's queue: a small file per submission, and what the queue says of it.

Records say what a run has done; these files say who was asked to do it. They are needed for two
things only: not to submit a run twice, and to say what became of a job that left no record.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.study.record import write_atomic

LOGS = "logs"  # folder below that of a sweep; a folder per submission
FILE = "submission.json"
SQUEUE_SECONDS = 30.0  # a busy controller may take some; then it is not known
LAST_WORDS = 300  # characters of a log that a message shows
# states of a job that will not run (again); every other one is in the queue (man squeue, JOB STATE CODES).
# PREEMPTED is the end of a job too: one that is requeued after preemption is PENDING
ENDED = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
})  # fmt: skip
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})


@dataclass(frozen=True)
class Submission:
    """Runs that were handed to an engine in one go.

    Args:
        engine: `slurm`.
        name: of the jobs in the queue.
        jobs: run ids by job id, e.g. `{"17_0": ["a", "b"]}`.
        at: when [UTC]; by, host: who submitted, and from where.
        folder: of this file and of the jobs' logs.
    """

    engine: str
    name: str
    jobs: dict[str, list[str]]
    at: str
    by: str = ""
    host: str = ""
    folder: Path = field(default_factory=Path, compare=False)

    @property
    def arrays(self) -> list[str]:
        """Job ids without the number within an array, as `scancel` takes them."""
        return list(dict.fromkeys(job.split("_")[0] for job in self.jobs))

    def log(self, job: str) -> Path:
        """Return where a job's first process writes what goes wrong."""
        return self.folder / f"{job}_0_log.err"


@dataclass(frozen=True)
class Queued:
    """A run's job that has not ended.

    Args:
        job: its id, as `scancel` takes it.
        state: pending, running, or unknown where the engine cannot be asked.
        engine: whose id it is.
        reason: why it waits, in the engine's word, e.g. `Resources`.
        log: what the job prints on errors.
    """

    job: str
    state: str
    engine: str
    reason: str = ""
    log: Path | None = None


def write_submission(submission: Submission) -> None:
    """Write the file of a submission into its folder, all or nothing."""
    values = dataclasses.asdict(submission)
    del values["folder"]
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_atomic(submission.folder / FILE, text + "\n")


def read_submissions(folder: Path) -> list[Submission]:
    """Return what was submitted of a sweep, the oldest first; a damaged file is left out.

    Args:
        folder: of the sweep's results.
    """
    found = [_read(path) for path in sorted((folder / LOGS).glob(f"*/{FILE}"))]
    return sorted((s for s in found if s is not None), key=lambda s: s.at)


def _read(path: Path) -> Submission | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in dataclasses.fields(Submission)}
        values = {k: v for k, v in values.items() if k in known}
        found = Submission(**values, folder=path.parent)
        return found if _is_whole(found) else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _is_whole(found: Submission) -> bool:
    """Whether a file that anybody may have changed says what a submission says."""
    words = (found.engine, found.name, found.at, *found.jobs)
    runs = [run for ids in found.jobs.values() for run in (ids if isinstance(ids, list) else [ids])]
    lists = all(isinstance(ids, list) for ids in found.jobs.values())
    return lists and all(isinstance(text, str) for text in (*words, *runs))


def queued_runs(folder: Path) -> dict[str, Queued]:
    """Return the runs of a sweep whose jobs are in a queue or running, by run id.

    Args:
        folder: of the sweep's results.
    """
    submissions = read_submissions(folder)
    if not submissions:
        return {}
    states = ask_slurm(submissions)
    found: dict[str, Queued] = {}
    for submission in submissions:
        for job, runs in submission.jobs.items():
            queued = _queued(submission, job, states)
            if queued is not None:
                found |= dict.fromkeys(runs, queued)
    return found


def _queued(submission: Submission, job: str, states: dict[str, Any] | None) -> Queued | None:
    log = submission.log(job)
    if states is None:
        return Queued(job, "unknown", submission.engine, "squeue does not answer here", log)
    state, reason, name = states.get(job, ("", "", ""))
    # numbers of jobs begin again when a cluster is set up anew
    if not state or state in ENDED or name != submission.name:
        return None
    kind = "pending" if state in WAITING else "running"
    return Queued(job, kind, submission.engine, "" if reason == "None" else reason, log)


def ask_slurm(submissions: Iterable[Submission]) -> dict[str, tuple[str, str, str]] | None:
    """Return state, reason and name of the jobs that Slurm still knows, by job id; null if it does not answer.

    By `squeue`, as many clusters keep no accounts for `sacct` to read.
    """
    arrays = sorted({array for s in submissions for array in s.arrays})
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "-h", "-r", "-t", "all", "-j", ",".join(arrays), "-o", "%i|%T|%r|%j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # it has forgotten the only one
        return None
    rows = [line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
    return {job: (state, reason, name) for job, state, reason, name in rows}


def ended_runs(folder: Path, run_ids: Iterable[str]) -> dict[str, str]:
    """Say what became of the last job of runs that are neither finished nor queued.

    Args:
        folder: of the sweep's results.
        run_ids: the runs asked for.

    Returns:
        A sentence by run id, with the job's last words and where the rest is; runs that were never
        submitted are left out.
    """
    wanted = set(run_ids)
    submissions = read_submissions(folder) if wanted else []
    last = {r: (s, job) for s in submissions for job, runs in s.jobs.items() for r in runs if r in wanted}  # fmt: skip
    states = ask_slurm(s for s, _ in last.values()) or {} if last else {}
    said: dict[str, str] = {}
    for run, (submission, job) in last.items():
        state, _, name = states.get(job, ("", "", ""))
        how = state.lower().replace("_", " ") if name == submission.name else "ended"
        said[run] = f"job {job} {how}: {last_words(submission.log(job))}"
    return said


def last_words(log: Path) -> str:
    """Return the last line of a log and where it is."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return f"it has left no log ({log}), so it never started"
    lines = [line.strip() for line in lines if line.strip()]
    return f"{lines[-1][:LAST_WORDS]} ({log})" if lines else f"nothing was said ({log})"


def describe_queued(queued: Sequence[Queued]) -> str:
    """Say how many runs wait and run, and as which jobs: `3 running, 2 pending (17_0, 17_1)`."""
    states = [q.state for q in queued]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    jobs = list(dict.fromkeys(q.job for q in queued))
    more = f" and {len(jobs) - 5} more" if len(jobs) > 5 else ""
    return f"{counts} (jobs {', '.join(jobs[:5])}{more})"
