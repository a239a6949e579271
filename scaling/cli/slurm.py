"""From jobs to arrays in Slurm's queue, through submitit."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scaling.cli.batch import Batch
from scaling.cli.jobs import Job
from scaling.cli.packing import CORE_SPEED, GPU_SPEED, job_seconds, pack_jobs
from scaling.cli.submissions import LOGS, Submission, write_submission
from scaling.study.errors import ConfigError, TrainError

MAX_ARRAY = 1001  # Slurm's own default of MaxArraySize, where it does not say
COMMON = ("name", "timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb")  # fmt: skip
OWN = ("partition", "account", "qos", "constraint", "nodelist", "exclude", "gres", "mem_per_gpu", "mem_per_cpu", "array_parallelism", "signal_delay_s", "srun_args", "comment", "additional_parameters")  # fmt: skip

Pack = list[Job]


def submit_jobs(jobs: Sequence[Job], folder: Path, settings: Mapping[str, Any]) -> list[Submission]:
    """Submit jobs as arrays; each submission is written down before the next is made.

    Args:
        jobs: what is to be trained, runs of one job in one process.
        folder: of the sweep's results.
        settings: keys of conf/hydra/launcher/slurm.yaml.

    Returns:
        What was submitted.

    Raises:
        ConfigError: submitit or Slurm is not here, or a key is wrong.
        TrainError: Slurm refuses; what was submitted before stays.
    """
    check_engine()
    submissions = []
    for packs, how in _classes(jobs, settings):
        most = max_array_size()
        for first in range(0, len(packs), most):
            try:
                submissions.append(_submit(packs[first : first + most], folder, how))
            except TrainError as error:
                if not submissions:
                    raise
                stay = sum(len(s.jobs) for s in submissions)
                raise TrainError(f"{error} {stay} jobs were submitted before, and stay.") from None
    return submissions


def check_engine() -> None:
    """Refuse to go on where jobs cannot be submitted.

    Raises:
        ConfigError: says what is missing.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ConfigError(
            "hydra/launcher=slurm: submitit is not installed. pip install 'scaling-lab[slurm]'"
        ) from None
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError(
            f"hydra/launcher=slurm: there is no sbatch on {socket.gethostname()}. Start this on a login node of the "
            "cluster, or leave out hydra/launcher to train here."
        )


def _classes(
    jobs: Sequence[Job], settings: Mapping[str, Any]
) -> Iterator[tuple[list[Pack], dict[str, Any]]]:
    """Yield packs with the settings they are submitted with: ordinary jobs, and large ones."""
    speed = job_speed(settings)
    limit = settings["large_minutes"]

    def seconds(job: Job) -> float:
        return job_seconds(job, speed=speed)

    small: Pack = []
    large: Pack = []
    for job in jobs:
        is_large = limit is not None and seconds(job) > 60 * float(limit)
        (large if is_large else small).append(job)
    if small:
        packs = pack_jobs(small, minutes=float(settings["pack_minutes"]), seconds=seconds)
        yield packs, dict(settings)
    if large:
        others = {name: value for name, value in settings["large"].items() if value is not None}
        yield [[job] for job in large], {**settings, **others}


def job_speed(settings: Mapping[str, Any]) -> float:
    """Return the counted FLOPs/s that one job is assumed to reach."""
    if settings["flops_per_second"]:
        return float(settings["flops_per_second"])
    nodes = int(settings["nodes"])
    if gpus := int(settings["gpus_per_node"] or _gpus_of(settings["gres"] or "")):
        return nodes * gpus * GPU_SPEED
    return nodes * int(settings["tasks_per_node"]) * int(settings["cpus_per_task"] or 1) * CORE_SPEED  # fmt: skip


def _gpus_of(gres: str) -> int:
    """Return how many GPUs `gpu`, `gpu:2` or `gpu:a100:2` asks for."""
    counts = [part.split(":")[1:] for part in gres.split(",") if part.split(":")[0] == "gpu"]
    return sum(int(c[-1]) if c and c[-1].isdigit() else 1 for c in counts)


def _submit(packs: Sequence[Pack], folder: Path, settings: Mapping[str, Any]) -> Submission:
    """Submit one array, or one job, and write down which runs it has."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    now = datetime.now(timezone.utc)
    logs = folder / LOGS / f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    logs.mkdir(parents=True)
    batches = [Batch([[p.config.to_dict() for p in job.plans] for job in pack]) for pack in packs]
    with _outside_of_jobs():
        try:
            executor = submitit.AutoExecutor(
                folder=logs, cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"], slurm_python=settings["python"]
            )  # fmt: skip
            executor.update_parameters(**_parameters(settings))
            handles = executor.submit_array(batches)
        except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
            shutil.rmtree(logs, ignore_errors=True)
            raise TrainError(_refusal(error)) from None
    jobs = {
        str(handle.job_id): [p.run_id for job in pack for p in job.plans]
        for handle, pack in zip(handles, packs, strict=True)
    }
    submission = Submission(
        engine="slurm", name=str(settings["name"]), jobs=jobs, at=now.isoformat(timespec="milliseconds"),
        by=getpass.getuser(), host=socket.gethostname(), folder=logs,
    )  # fmt: skip
    write_submission(submission)
    return submission


def _parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what submitit takes, by the names of its executors."""
    common = {name: settings[name] for name in COMMON if settings[name] is not None}
    for name in common.keys() - {"name"}:
        if not isinstance(common[name], int | float) or common[name] <= 0:
            raise ConfigError(f"hydra.launcher.{name}: {common[name]!r} is no number above 0.")
    own = {f"slurm_{n}": settings[n] for n in OWN if settings[n] not in (None, [], {})}
    setup = list(settings["setup"])
    if settings["cpus_per_task"]:
        # since Slurm 22.05 srun does not take this over from sbatch, and a task would have one CPU
        setup.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")
        setup.append("export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}")
    return {**common, **own, "slurm_setup": setup}


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a Slurm job that this is typed in, but not where the cluster is."""
    from submitit.helpers import clean_env

    kept = {k: v for k, v in os.environ.items() if k in ("SLURM_CONF", "SLURM_CLUSTERS")}
    with clean_env():
        os.environ.update(kept)
        try:
            yield
        finally:
            for name in kept:
                os.environ.pop(name, None)


def _refusal(error: Exception) -> str:
    """Say what sbatch said, without submitit's traceback."""
    said = re.findall(r"sbatch: (?:error: |fatal: )?(.+)", str(error))
    said = said or str(error).strip().splitlines()[-1:]
    return (
        f"hydra/launcher=slurm: Slurm refuses the jobs: {'; '.join(said).rstrip('.')}. Correct hydra.launcher.* "
        "(`sinfo` lists partitions and their limits) and start the same command again."
    )


def max_array_size() -> int:
    """Return how many jobs an array may have here."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return MAX_ARRAY
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return max(1, int(found[1])) if found else MAX_ARRAY
