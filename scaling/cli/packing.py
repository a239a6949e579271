"""Which jobs share one of an engine's: short ones go one after another, long ones alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scaling.cli.jobs import Job
from scaling.study.plan import RunPlan

# Counted FLOPs/s that a run of a sweep reaches, where nobody says better. Only decides which runs
# share a job, so a factor of three does no harm. A CPU core: between the 2e10 of 30k and the 9e10 of 1M
# parameters, one thread (benchmarks/README.md, throughput; Zen 4). A GPU: a tenth of an A100's
# bfloat16 peak of 3.1e14 (NVIDIA A100 datasheet), since the models of a sweep are small.
CORE_SPEED = 3e10
GPU_SPEED = 3e13
STEP_SECONDS = 0.01  # s that a step takes at least, however small the model
START_SECONDS = 20.0  # s to import torch, open data and evaluate, per run


def seconds_of(plan: RunPlan, *, speed: float) -> float:
    """Estimate how long a run takes, to within a factor of a few.

    Args:
        plan: the run.
        speed: counted FLOPs/s.
    """
    return START_SECONDS + max(plan.flops_counted / speed, STEP_SECONDS * plan.steps)


def job_seconds(job: Job, *, speed: float) -> float:
    """Estimate how long a job takes; shared steps count once."""
    alone = sum(seconds_of(p, speed=speed) for p in job.plans)
    total = sum(p.flops_counted for p in job.plans)
    return alone * job.flops / total if total else alone


def pack_jobs(
    jobs: Sequence[Job], *, minutes: float, seconds: Callable[[Job], float]
) -> list[list[Job]]:
    """Group jobs that are shorter than `minutes` into packs of about that length.

    Args:
        jobs: in any order.
        minutes: length of a pack; 0: every job alone.
        seconds: estimates a job's time [s].

    Returns:
        Packs, the longest first; within a pack the longest job first.
    """
    length = {id(job): seconds(job) for job in jobs}
    short = [job for job in jobs if length[id(job)] < 60 * minutes]
    packs = [[job] for job in jobs if length[id(job)] >= 60 * minutes]
    packs += _even_packs(short, 60 * minutes, length)
    return sorted(packs, key=lambda pack: -sum(length[id(job)] for job in pack))


def _even_packs(jobs: list[Job], most: float, length: dict[int, float]) -> list[list[Job]]:
    """Deal jobs to as few packs as hold them, each to the emptiest, the longest job first."""
    if not jobs:
        return []
    count = int(-(-sum(length[id(job)] for job in jobs) // most))
    packs: list[list[Job]] = [[] for _ in range(min(count, len(jobs)))]
    filled = [0.0] * len(packs)
    for job in sorted(jobs, key=lambda job: -length[id(job)]):
        emptiest = filled.index(min(filled))
        packs[emptiest].append(job)
        filled[emptiest] += length[id(job)]
    return packs
