"""How long it takes to submit many runs to Slurm, and to ask which are queued.

    python -m benchmarks.submissions        (root on Debian or Ubuntu, or Slurm's programs; 2 minutes)

On a private Slurm whose nodes take no jobs, so that nothing trains. `packed` is the launcher's own
choice for runs of this size; `alone` is a job per run, as much as Slurm and the files can be asked for.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import yaml

import scaling
from scaling.cli.jobs import Job
from scaling.cli.packing import GPU_SPEED
from scaling.cli.slurm import submit_jobs
from scaling.cli.submissions import LOGS, queued_runs
from scaling.study.config import RunConfig
from scaling.study.paths import data_dir
from scaling.study.plan import RunPlan, make_plan
from scaling.study.table import Table

ROOT = Path(scaling.__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RUNS = (1000, 10_000)
HOWS = {"packed": 10, "alone": 0}  # pack_minutes


def main() -> None:
    """Print one row per number of runs and way of packing."""
    import slurm_cluster

    if reason := slurm_cluster.why_not():
        print(reason)
        return
    rows = []
    with slurm_cluster.cluster(array=10_001) as cluster, tempfile.TemporaryDirectory() as folder:
        os.environ |= {k: v for k, v in cluster.env.items() if k in ("PATH", "SLURM_CONF")}
        cluster.call("scontrol", "update", "PartitionName=low", "State=DOWN")
        for count in RUNS:
            plans = plan_runs(count)
            for how in HOWS:
                rows.append(measure(plans, Path(folder) / f"{how}{count}", how))
                cluster.call("scancel", "--name", how)
    header = ("runs", "how", "jobs", "submit", "per run", "files", "ask the queue")
    print(Table(header, rows, title="Submitting to Slurm"))


def plan_runs(count: int) -> list[RunPlan]:
    """Plan runs of 1M parameters and 20M tokens that differ in their seeds."""
    base = RunConfig.from_dict({"model": {"params": 1e6}, "budget": {"tokens": 2e7}})
    return [make_plan(base.replace(seed=seed)) for seed in range(count)]


def measure(plans: list[RunPlan], folder: Path, how: str) -> tuple[str, ...]:
    """Submit runs and ask for them once; return a row of the table."""
    settings = yaml.safe_load((data_dir("conf") / "hydra/launcher/slurm.yaml").read_text())
    # the speed of a GPU, on which runs of this size are short
    settings |= {"name": how, "pack_minutes": HOWS[how], "flops_per_second": GPU_SPEED}
    start = time.perf_counter()
    submissions = submit_jobs([Job((), (p,)) for p in plans], folder, settings)
    took = time.perf_counter() - start
    start = time.perf_counter()
    queued = queued_runs(folder)
    asked = time.perf_counter() - start
    assert {q.state for q in queued.values()} == {"pending"} and len(queued) == len(plans)
    jobs = sum(len(s.jobs) for s in submissions)
    size = sum(f.stat().st_size for f in (folder / LOGS).rglob("*") if f.is_file())
    return (
        str(len(plans)), how, str(jobs), f"{took:.1f} s", f"{1e3 * took / len(plans):.1f} ms", f"{size / 1e6:.1f} MB", f"{asked:.2f} s",
    )  # fmt: skip


if __name__ == "__main__":
    main()
