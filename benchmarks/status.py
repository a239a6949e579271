"""How fast `scaling status` answers for large sweeps, and how fast their records become a table.

python -m benchmarks.status               1,000 and 10,000 runs in a temporary folder
python -m benchmarks.status 1000 FOLDER   so many runs, kept in FOLDER

Every run of a sweep file is planned as it would be trained and gets a valid record: most are done,
some run, fail, diverge or wait, a few are damaged. Losses follow the law of Hoffmann et al. 2022 with
the scatter of one run. Each command is a process of its own, files in the page cache; the machine's
other work moves wall times, so that CPU time stands beside them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord, read_record
from scaling.study.table import Table

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "results" / "sample" / "llama-n10_3k-d2_04M-s0-a06eb926"
SWEEP = "large"
SEEDS = {
    1000: 2,
    10_000: 20,
}  # of 20 budgets x 25 ratios; other counts take as many seeds as they need
COMMANDS = {
    "status, first time": ["status", SWEEP, "fit=false"],
    "status, again": ["status", SWEEP, "fit=false"],
    "status all=true, again": ["status", SWEEP, "fit=false", "all=true"],
    "status and law, fitted anew": ["status", SWEEP],
    "status and law, nothing changed": ["status", SWEEP],
}
LOAD = "import scaling as sl; sl.load('results/large')"


def main(counts: list[int], folder: Path | None = None) -> None:
    """Make the folders, time every command, print one table per number of runs."""
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="status-") as temporary:
            place = folder or Path(temporary)
            made = make_sweep(place, count)
            rows = [time_command(name, ["-m", "scaling", *arguments], place) for name, arguments in COMMANDS.items()]  # fmt: skip
            rows.append(time_command("sl.load", ["-c", LOAD], place))
            note = f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}."
            print(Table(("command", "wall s", "CPU s", "memory MB"), rows, title=f"{made:,} runs", note=note).markdown())  # fmt: skip


def time_command(name: str, arguments: list[str], place: Path) -> list[str]:
    """Run one command in the folder of the sweep; returns name, wall and CPU seconds, memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=place, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    _, code, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if code:
        raise SystemExit(f"{name}: the command failed.")
    return [name, f"{wall:.2f}", f"{used.ru_utime + used.ru_stime:.2f}", f"{used.ru_maxrss / 1024:.0f}"]  # fmt: skip


def make_sweep(place: Path, count: int) -> int:
    """Write sweeps/large.yaml and a record for most of its runs; returns how many runs it has."""
    from scaling.cli.compose import compose_sweep
    from scaling.cli.sweep import unique_plans

    seeds = SEEDS.get(count, math.ceil(count / 500))
    (place / "sweeps").mkdir(parents=True, exist_ok=True)
    (place / "sweeps" / f"{SWEEP}.yaml").write_text(sweep_text(seeds))
    here = Path.cwd()
    os.chdir(place)
    try:
        plans = [plan for _, plan in unique_plans(compose_sweep([f"sweeps={SWEEP}"]).points)]
        chance = random.Random(0)
        template = read_record(SAMPLE).to_dict()
        for number, plan in enumerate(plans):
            write_run(plan, template, number / len(plans), chance)
    finally:
        os.chdir(here)
    return len(plans)


def sweep_text(seeds: int) -> str:
    """Return a grid of 20 budgets x 25 ratios x seeds."""
    budgets = ", ".join(f"{1e10 * 10 ** (i / 5):.3g}" for i in range(20))
    ratios = ", ".join(f"{2 * 1.25**i:.3g}" for i in range(25))
    return (
        f"# @package _global_\ndesign:\n  question: How does status do on a large sweep?\n  grid:\n"
        f"    budget.flops: [{budgets}]\n    budget.tokens_per_param: [{ratios}]\n    seed: [{', '.join(map(str, range(seeds)))}]\n"
    )


def write_run(plan: RunPlan, template: dict, share: float, chance: random.Random) -> None:
    """Write the record of one run: of ten done, one is something else."""
    status = chance.choices(
        ("done", "running", "failed", "diverged", "waiting", "damaged"),
        (90, 2, 1, 1, 5.9, 0.1),
    )[0]
    if status == "waiting":
        return
    plan.folder.mkdir(parents=True, exist_ok=True)
    if status == "damaged":
        (plan.folder / "run.json").write_text('{"run_id": "cut')
        return
    now = datetime.now(timezone.utc).replace(microsecond=0)
    part = chance.random() if status == "running" else 1.0
    # Hoffmann et al. 2022, arXiv:2203.15556, as fitted by Besiroglu et al. 2024 (arXiv:2404.10102)
    loss = (1.8172 + 482.01 * plan.params**-0.3478 + 2085.43 * plan.tokens**-0.3658) * math.exp(chance.gauss(0, 0.002))  # fmt: skip
    values = template | {
        "run_id": plan.run_id, "status": status, "sweep": plan.config.sweep, "config_hash": plan.hash,
        "setting_hash": plan.setting_hash, "trunk_hash": None, "seed": plan.config.seed, "order_seed": plan.order_seed,
        "params_target": plan.params_target, "params_total": plan.counts.total, "params_embedding": plan.counts.embedding,
        "params_head": plan.counts.head, "params_non_embedding": plan.counts.non_embedding, "params_active": plan.counts.active,
        **{k: v for k, v in dataclasses.asdict(plan.shape).items() if k in ("layers", "width", "heads", "kv_heads", "head_size", "ffn", "context", "vocab")},
        "tokens": int(plan.tokens * part), "tokens_target": plan.tokens_target, "steps": int(plan.steps * part), "steps_planned": plan.steps,
        "batch_tokens": plan.batch_tokens, "flops_counted": plan.flops_counted * part, "lr": plan.lr,
        "val_loss": loss if status == "done" else None, "seconds": 1e-4 * plan.tokens * part,
        "updated_at": now.isoformat() if status == "running" else (now - timedelta(hours=1)).isoformat(),
        "finished_at": None if status == "running" else (now - timedelta(hours=1)).isoformat(),
        "reason": {"failed": "out of memory; set train.micro_batch_tokens=2k", "diverged": "the loss is not finite"}.get(status),
    }  # fmt: skip
    # as write_record does, without an fsync for each of ten thousand
    (plan.folder / "run.json").write_text(json.dumps(RunRecord.from_dict(values).to_dict(), indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main(
        [int(sys.argv[1])] if len(sys.argv) > 1 else [1000, 10_000],
        Path(sys.argv[2]) if len(sys.argv) > 2 else None,
    )
